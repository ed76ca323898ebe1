"""Training at the size of ChatGLM3-6B on one GPU: `python -m benchmarks.training.gpu`; `--tiny` runs it on a CPU.

Random bf16 weights of the exact shape are made on the device; nothing is read but this repository. Each case is a
process of its own, so that one that runs out of memory ends alone. Speeds are of windows of some steps, tokens are
those that are not padding, and operations are those of `glmja.modeling.flops`: MFU counts nothing that is
computed twice. With `$OUT`, results are written there as they come.

A command on a lent machine may be shorter than all cases: `--only` takes parts of names.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader
from transformers import GlmConfig, GlmForCausalLM, TrainerCallback, TrainingArguments
from transformers import Trainer as HFTrainer

from benchmarks.data.bin_packing import synthetic_lengths
from benchmarks.harness.tables import Figures, publish
from callbacks.throughput import count_tokens, known_peak_tflops, peak_memory
from data_modules.batches.batching import group_by_length, pack_whole, shuffle_groups
from data_modules.batches.rows import Fragment, collate, pack
from glmja.modeling.adapters import Embeddings, Lora, apply_tuning
from glmja.modeling.batch import Batch
from glmja.modeling.flops import training_flops_per_token
from glmja.modeling.loss import next_token_loss
from glmja.tokenization.tokenizer import FILE_NAME, GLMTokenizer
from glmja.twin import build as twin
from lit_modules import PackedPretraining, PaddedSFT, ZeRO2

NUM_STEPS, NUM_WARMUP, WINDOW = 40, 10, 5
LEARNING_RATE = 1e-5

SIX_B = {
    "vocab_size": 78_592, "hidden_size": 4096, "intermediate_size": 13_696, "num_hidden_layers": 28,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "vocab_size": 2_048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 8192,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained how.

    Attributes:
        tokens: Of a micro-batch.
        isolate: Whether documents of a row are kept apart; without it, attention needs no mask.
    """

    name: str
    trainer: Literal["ours", "hf"] = "ours"
    data: Literal["text", "sft padded", "sft packed", "sft 8 rows"] = "text"
    row_len: int = 1024
    tokens: int = 8192
    embeddings: Embeddings = "full"
    attention: str = "sdpa"
    checkpointing: bool = False
    compiled: bool = False
    zero2: bool = False
    isolate: bool = True


CASES = (
    Case("text 1k"),
    Case("text 4k", row_len=4096),
    Case("text 4k, 16k tokens", row_len=4096, tokens=16_384),
    Case("text 4k, 32k tokens", row_len=4096, tokens=32_768),
    Case("text 1k, checkpointing", checkpointing=True),
    Case("text 4k, checkpointing", row_len=4096, checkpointing=True),
    Case("text 1k, compiled", compiled=True),
    Case("text 4k, compiled", row_len=4096, compiled=True),
    Case("text 1k, flex", attention="flex_attention"),
    Case("text 4k, flex", row_len=4096, attention="flex_attention"),
    Case("text 4k, flex, compiled", row_len=4096, attention="flex_attention", compiled=True),
    Case("text 4k, no mask", row_len=4096, isolate=False),
    Case("text 4k, no mask, compiled", row_len=4096, isolate=False, compiled=True),
    Case("text 4k, ZeRO-2", row_len=4096, zero2=True),
    Case("text 1k, one row, checkpointing", tokens=1024, checkpointing=True),
    Case("HF text 1k", trainer="hf"),
    Case("HF text 4k", trainer="hf", row_len=4096),
    Case("HF text 1k, one row, checkpointing", trainer="hf", tokens=1024, checkpointing=True),
    Case("sft padded", data="sft padded", embeddings="frozen"),
    Case("sft packed", data="sft packed", embeddings="frozen"),
    Case("sft packed, flex", data="sft packed", embeddings="frozen", attention="flex_attention"),
    Case("HF sft 8 rows padded", trainer="hf", data="sft 8 rows", embeddings="frozen"),
)


def tiny(case: Case) -> Case:
    """The same in small."""
    smaller = {"row_len": case.row_len // 16, "tokens": case.tokens // 16}
    return Case(**{**asdict(case), **smaller})


def random_model(config: dict[str, Any], attention: str) -> GlmForCausalLM:
    """Random bf16 weights on the device; those of the embeddings too, until they are chosen to train."""
    settings: dict[str, Any] = {"attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 0}
    glm = GlmConfig(**config, **settings)
    glm._attn_implementation = attention
    with torch.device("meta"):
        model = GlmForCausalLM(glm).to(torch.bfloat16)
    model.to_empty(device=device())
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.02)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    model.model.rotary_emb = type(model.model.rotary_emb)(glm).to(device())
    return model


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_batches(case: Case, vocab_size: int, num_batches: int) -> list[Batch]:
    """Random ids in documents and conversations of likely lengths."""
    rng = np.random.default_rng(0)

    def fragment(length: int, prompt_share: float) -> Fragment:
        ids = rng.integers(100, vocab_size, length).astype(np.uint32)
        return Fragment(ids, np.arange(length) >= int(length * prompt_share))

    if case.data == "text":
        num_rows = case.tokens // case.row_len
        batches = []
        for _ in range(num_batches):
            rows = []
            for _ in range(num_rows):
                lengths, left = [], case.row_len
                while left:
                    lengths.append(min(left, int(rng.lognormal(np.log(400), 1.0)) + 2))
                    left -= lengths[-1]
                rows.append(pack([fragment(length, 0.0) for length in lengths], case.isolate))
            batches.append(collate(rows))
        return batches
    lengths = synthetic_lengths(num_batches * max(8, case.tokens // 20), case.row_len, 0)
    if case.data == "sft packed":
        planned = pack_whole(lengths, case.tokens, case.row_len, rng)
    elif case.data == "sft padded":
        planned = shuffle_groups(group_by_length(lengths, case.tokens, 8, rng), 1, rng)
    else:
        planned = [list(rows[:, None]) for rows in np.split(np.arange(len(lengths)), range(8, len(lengths), 8))]
    made = []
    for batch in planned[:num_batches]:
        made.append(collate([pack([fragment(int(lengths[i]), 0.5) for i in row]) for row in batch], 8))
    assert len(made) == num_batches
    return made


class Clock:
    """Speeds of windows of some steps; waits for the device only between them."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Counts the tokens of each step."""
        self.tokens, self.num_done = tokens, 0
        self.speeds: list[float] = []
        self.start = 0.0

    def step(self) -> None:
        """One more is done."""
        self.num_done += 1
        if self.num_done < NUM_WARMUP or (self.num_done - NUM_WARMUP) % WINDOW:
            return
        synchronize()
        now = time.perf_counter()
        if self.num_done > NUM_WARMUP:
            tokens = sum(self.tokens[self.num_done - WINDOW : self.num_done])
            self.speeds.append(tokens / (now - self.start))
        self.start = now


class LightningClock(Callback):
    """Steps of Lightning's Trainer."""

    def __init__(self, clock: Clock) -> None:
        """Takes the clock."""
        self.clock, self.losses = clock, []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        self.losses.append(outputs["loss"].detach())
        self.clock.step()


class HFClock(TrainerCallback):
    """Steps of Hugging Face's Trainer."""

    def __init__(self, clock: Clock) -> None:
        """Takes the clock."""
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step is done."""
        self.clock.step()


class MadeBatches(LightningDataModule):
    """Batches that are there."""

    def __init__(self, batches: list[Batch]) -> None:
        """Takes them."""
        super().__init__()
        self.batches, self.num_steps = batches, len(batches)
        self.validation_sources: list[Any] = []

    def train_dataloader(self) -> DataLoader[Batch]:
        """In order."""
        return DataLoader(self.batches, batch_size=None, pin_memory=torch.cuda.is_available())  # type: ignore[arg-type]


def run_ours(case: Case, config: dict[str, Any], batches: list[Batch], clock: Clock, scratch: Path) -> Any:
    """Trains with our module; returns the model and the losses."""

    def load(folder: Any, dtype: Any, attention: str) -> GlmForCausalLM:
        return random_model(config, attention)

    base = "lit_modules.base"
    with (
        mock.patch(f"{base}.load_model", load),
        mock.patch(f"{base}.check_folder", GLMTokenizer.load),
        mock.patch(f"{base}.glm_config", lambda folder: config),
    ):
        module = (PackedPretraining if case.data == "text" else PaddedSFT)(
            str(scratch / "model"),
            embeddings=case.embeddings,
            optimizer=partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True),
            attn_implementation=case.attention,
            gradient_checkpointing=case.checkpointing,
            compile_layers=case.compiled,
            loss_chunk_len=2048,
        )
        ticker = LightningClock(clock)
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            strategy=ZeRO2() if case.zero2 else "auto",
            precision="bf16-mixed",
            max_steps=NUM_STEPS,
            gradient_clip_val=1.0,
            callbacks=[ticker],
            logger=False,
            default_root_dir=scratch,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, datamodule=MadeBatches(batches))
    return module.model, [float(loss) for loss in ticker.losses]


def run_hf(case: Case, config: dict[str, Any], batches: list[Batch], clock: Clock, scratch: Path) -> Any:
    """Trains with Hugging Face's Trainer and its usual loss; returns the model and the losses."""
    model = random_model(config, case.attention)
    trained = apply_tuning(model, "lora", case.embeddings, Lora(), [])
    ready = []
    for batch in batches:
        inputs = {"input_ids": batch["input_ids"], "labels": batch["labels"]}
        if case.data == "text":
            inputs["position_ids"] = batch["position_ids"]
        else:
            inputs["attention_mask"] = (torch.arange(inputs["labels"].shape[1]) < batch["lengths"][:, None]).long()
        ready.append(inputs)
    arguments = TrainingArguments(
        output_dir=str(scratch / "hf"),
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        max_steps=NUM_STEPS,
        max_grad_norm=1.0,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        gradient_checkpointing=case.checkpointing,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = HFTrainer(
        model=trained,
        args=arguments,
        train_dataset=ready,  # type: ignore[arg-type]
        data_collator=first,
        callbacks=[HFClock(clock)],
    )
    return trained, [trainer.train().training_loss]


def first(batches: list[Any]) -> Any:
    """The batch that is there already."""
    (batch,) = batches
    return batch


def train(case: Case, config: dict[str, Any]) -> dict[str, Any]:
    """Trains a case and reports; in a process of its own."""
    batches = make_batches(case, config["vocab_size"], NUM_STEPS)
    computed, tokens, learnt, attended = (np.array([count_tokens(b).tolist() for b in batches]).T[i] for i in range(4))
    clock = Clock(tokens.tolist())
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        texts = twin.text_file("en").read_text("utf-8").split("\n")
        (scratch / "model").mkdir()
        (scratch / "model" / FILE_NAME).write_bytes(twin.train_vocabulary(texts, 500))
        run = run_ours if case.trainer == "ours" else run_hf
        model, losses = run(case, config, batches, clock, scratch)
    speed = statistics.median(clock.speeds)
    needed = training_flops_per_token(model, float(attended.sum() / tokens.sum())) * speed
    peak = known_peak_tflops(device())
    return {
        "tokens_per_s": speed,
        "least": min(clock.speeds),
        "most": max(clock.speeds),
        "useful_share": float(tokens.sum() / computed.sum()),
        "learnt_share": float(learnt.sum() / tokens.sum()),
        "model_tflops": needed / 1e12,
        "mfu": needed / 1e12 / peak if peak else None,
        "peak_gb": peak_memory(device()) / 1e9,
        "loss": [losses[0], losses[-1]],
    }


def milliseconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """Of each repetition, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        found.append(1000 * (time.perf_counter() - start))
    return found[1:]


def pieces(config: dict[str, Any], num_tokens: int, repeats: int = 7) -> dict[str, dict[str, float]]:
    """Times of a matrix product, the optimizer and the loss by themselves."""
    width, num_rows, found = config["hidden_size"], config["vocab_size"], {}

    def record(name: str, work: Callable[[], Any], teraflop: float = 0.0) -> None:
        gc.collect()
        before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        times = milliseconds(work, repeats)
        middle = statistics.median(times)
        extra = torch.cuda.max_memory_allocated() - before if torch.cuda.is_available() else 0
        found[name] = {"ms": middle, "least": min(times), "most": max(times), "extra_gb": extra / 1e9}
        found[name]["tflops"] = teraflop / middle * 1000

    side = num_tokens
    a = torch.randn(side, side, device=device(), dtype=torch.bfloat16)
    record(f"bf16 product, {side}³", partial(torch.mm, a, a), 2 * side**3 / 1e12)
    del a

    made = apply_tuning(random_model(config, "sdpa"), "lora", "full", Lora(), [])
    shapes = [p.shape for p in made.parameters() if p.requires_grad]
    del made
    gc.collect()
    trained = [torch.zeros(shape, device=device(), requires_grad=True) for shape in shapes]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    count = sum(p.numel() for p in trained)
    for kind in ("fused", "foreach"):
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, **{kind: True})
        record(f"AdamW {kind}, {count / 1e6:.1f} M", optimizer.step)
        del optimizer
    del trained

    targets = torch.randint(num_rows, (1, num_tokens + 1), device=device())
    flop = 6 * num_tokens * width * num_rows / 1e12
    for dtype in (torch.float32, torch.bfloat16):  # fp32 under autocast is what training in bf16-mixed has
        hidden = torch.randn(1, num_tokens + 1, width, device=device(), dtype=dtype).requires_grad_()
        head = (0.02 * torch.randn(num_rows, width, device=device(), dtype=dtype)).requires_grad_()

        def differentiate(loss: Callable[[], torch.Tensor], hidden: Any = hidden, head: Any = head) -> None:
            hidden.grad = head.grad = None
            with torch.autocast(device().type, torch.bfloat16):
                total = loss()
            total.backward()

        def plain(hidden: Any = hidden, head: Any = head) -> torch.Tensor:
            return F.cross_entropy(F.linear(hidden[0, :-1], head).float(), targets[0, 1:], reduction="sum")

        kind = f"{'fp32' if dtype == torch.float32 else 'bf16'} under autocast"
        for chunk_len in (256, 1024, 2048, 4096):
            chunked = partial(_chunked, hidden, head, targets, chunk_len)
            record(f"loss, {kind}, chunks of {chunk_len}", partial(differentiate, chunked), flop)
        record(f"loss, {kind}, plain", partial(differentiate, plain), flop)
    return found


def _chunked(hidden: Any, head: Any, targets: Any, chunk_len: int) -> torch.Tensor:
    return next_token_loss(hidden, head, targets, chunk_len)[0]


def _in_process(connection: Connection, work: Callable[[], Any]) -> None:
    warnings.filterwarnings("ignore")
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        connection.send(work())
    except Exception as error:  # whatever happens to one case, the others are to run
        traceback.print_exc()
        connection.send({"error": f"{type(error).__name__}: {str(error).strip()[:200]}"})


def apart(work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """The result of a process of its own, or `error`."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_in_process, args=(theirs, work))
    process.start()
    theirs.close()
    try:
        return mine.recv() if mine.poll(limit) else {"error": f"took more than {limit:.0f} s"}
    except EOFError:
        return {"error": "ended without a result"}
    finally:
        process.kill()
        process.join()


def cells(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    if "error" in found:
        return [name, found["error"], *[""] * 5]
    mfu = f"{found['mfu']:.1%}" if found["mfu"] else "–"
    speeds = f"{found['tokens_per_s']:,.0f} ({found['least']:,.0f}–{found['most']:,.0f})"
    numbers = [f"{found['model_tflops']:.3g}", mfu, f"{found['peak_gb']:.1f}", f"{found['useful_share']:.1%}"]
    return [name, speeds, *numbers, f"{found['loss'][0]:.3f} → {found['loss'][-1]:.3f}"]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="A tiny shape and short rows.")
    parser.add_argument("--only", nargs="*", help="Cases whose names hold one of these; `pieces` for the parts alone.")
    parser.add_argument("--skip", nargs="*", default=[], help="Cases whose names hold one of these.")
    parser.add_argument("--list", action="store_true", help="Show the names of the cases.")
    parser.add_argument("--limit", type=float, default=240, help="Seconds that a case may take.")
    parser.add_argument("--markdown", help="File to write the tables to.")
    args = parser.parse_args()
    if args.list:
        print("pieces", *[case.name for case in CASES], sep="\n")
        return

    def wanted(name: str) -> bool:
        chosen = args.only is None or any(part in name for part in args.only)
        return chosen and not any(part in name for part in args.skip)

    config, results = (TINY if args.tiny else SIX_B), {}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    parts = Figures(f"Parts of a step, {name}", ["part", "ms", "TFLOP/s", "extra GB"])
    table = Figures(
        f"Training, {name}, {NUM_STEPS} steps", ["case", "tokens/s", "TFLOP/s", "MFU", "peak GB", "useful", "loss"]
    )

    def keep(key: str, found: dict[str, Any]) -> None:
        results[key] = found
        print(key, json.dumps(found), flush=True)
        if out := os.environ.get("OUT"):
            (Path(out) / "gpu_training.json").write_text(json.dumps(results, indent=1), encoding="utf-8")

    if wanted("pieces"):
        keep("pieces", apart(partial(pieces, config, 512 if args.tiny else 8192), args.limit))
        for part, found in results["pieces"].items():
            if part == "error":
                parts.rows.append([str(found), "", "", ""])
                continue
            times = f"{found['ms']:.2f} ({found['least']:.2f}–{found['most']:.2f})"
            parts.rows.append(
                [part, times, f"{found['tflops']:.0f}" if found["tflops"] else "", f"{found['extra_gb']:.2f}"]
            )
    for case in CASES:
        if wanted(case.name):
            keep(case.name, apart(partial(train, tiny(case) if args.tiny else case, config), args.limit))
            table.rows.append(cells(case.name, results[case.name]))
    publish([parts, table], args.markdown)


if __name__ == "__main__":
    main()
