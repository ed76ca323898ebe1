"""Measures SFT batching against Hugging Face's ways to batch: `python -m benchmarks.training.sft_throughput`.

The tiny GLM of `benchmarks.training.training_step` trains adapters on the same conversations, rendered once, in the
batches of each contender. A turn is one epoch. Only tokens that are not padding count. The learning rate changes no
weight, so that the mean loss over an epoch does not depend on the batches: a difference would show that a conversation
is missing, has other target tokens, or attends to another conversation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import DataCollatorWithFlattening

from benchmarks.harness import trainers
from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.tiny_glm import load_trainable, plan_batches, write_model
from benchmarks.harness.turns import Turn, largest_difference, median_and_spread, ratios, row, take_turns
from benchmarks.training.llamafactory_turns import llama_factory, write_for_transformers
from data_modules import ChatSource, PaddedSFTData
from glmja.modeling.batch import IGNORE_INDEX
from glmja.tokenization.tokenizer import FILE_NAME
from glmja.twin import build as twin
from lit_modules import PaddedSFT

# Options of Hugging Face's Trainer; flattening is a collator.
HF: dict[str, dict[str, Any]] = {
    "HF, 8 rows padded": {"per_device_train_batch_size": 8},
    "HF, one row": {"per_device_train_batch_size": 1},
    "HF, grouped, 8 rows": {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"},
    "HF, flattened, 8": {"per_device_train_batch_size": 8},
}
PACKED = "glmja, packed"
GLMJA = {"glmja, padded": False, PACKED: True}
PADDED, ONE_ROW, GROUPED, FLATTENED = HF
LLAMA_FACTORY = "LLaMA-Factory, neat packing"
TARGETS = {PADDED: "≥ 2.0", GROUPED: "≥ 1.5", FLATTENED: "≥ 1.5", LLAMA_FACTORY: "≥ 1.2", "glmja, padded": "≥ 1.05"}

LEARNING_RATE = 1e-30  # changes no weight; a rate of 0 is refused, since nothing would be trained
_MANY_EPOCHS = 1000


def conversation_files(data: Path) -> dict[str, str]:
    """Returns a file for each source; without the data folder, the one that ships with the package."""
    files = {path.name.split(".")[0]: str(path) for path in sorted((data / "sft").glob("*.jsonl.gz"))}
    return files or {"chats": str(twin.text_file("conversations"))}


def sample(files: dict[str, str], count: int, output: Path, seed: int) -> None:
    """Writes a random sample of conversations from all files."""
    lines: list[str] = []
    for name in files.values():
        content = Path(name).read_bytes()
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
        lines += [line for line in text.split("\n") if line and len(json.loads(line)["messages"]) > 1]
    chosen = random.Random(seed).sample(lines, min(count, len(lines)))
    output.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")


def data_module(
    tokenizer: Path,
    files: dict[str, str],
    scratch: Path,
    row_len: int,
    tokens_per_batch: int,
    packing: bool,
    epochs: int,
) -> PaddedSFTData:
    """Makes the data module, without validation."""
    sources = [ChatSource(name=name, lang="all", files=[file]) for name, file in files.items()]
    cache = str(scratch / "cache")
    # prompts longer than a row are dropped on both sides
    options: dict[str, Any] = {"max_bad_share": 1.0, "val_share": 0.0, "cache_dir": cache}
    options |= {"row_len": row_len, "tokens_per_batch": tokens_per_batch, "packing": packing, "epochs": epochs}
    return PaddedSFTData(str(tokenizer), sources, **options)


class Conversations(Dataset[dict[str, list[int]]]):
    """The same ids and labels as lists, for Hugging Face's collators."""

    def __init__(self, data: PaddedSFTData) -> None:
        """Reads all conversations."""
        rows: Any = plan_batches(data).rows
        made = [rows[i] for i in range(len(rows))]
        self.items = [{"input_ids": r.input_ids.tolist(), "labels": r.labels.tolist()} for r in made]

    def __len__(self) -> int:
        """Returns the number of conversations."""
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        """Returns conversation i."""
        return self.items[i]


def hugging_face(turn: Turn, scratch: Path, precision: str, name: str, row_len: int) -> None:
    """Trains epochs with Hugging Face's Trainer."""
    data = data_module(scratch / "model", {"chats": str(scratch / "chats.jsonl")}, scratch, row_len, row_len, False, 1)
    callback = trainers.HFTurns(turn, per_epoch=True)
    collator = DataCollatorWithFlattening() if name == FLATTENED else padded
    callback.trainer = trainers.hf_trainer(
        load_trainable(str(scratch / "model"), "frozen"),
        Conversations(data),
        scratch / "hf",
        precision,
        LEARNING_RATE,
        data_collator=collator,
        callbacks=[callback],
        arguments={"num_train_epochs": _MANY_EPOCHS, **HF[name]},
    )
    callback.trainer.train()


def padded(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pads rows to the longest, rounded up to a multiple of 8, as DataCollatorForSeq2Seq; not slower than it."""
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
    width = int(lengths.max()) + -int(lengths.max()) % 8

    def pad(key: str, value: int) -> Tensor:
        return torch.tensor([feature[key] + [value] * (width - len(feature[key])) for feature in features])

    mask = (torch.arange(width) < lengths[:, None]).long()
    return {"input_ids": pad("input_ids", 0), "attention_mask": mask, "labels": pad("labels", IGNORE_INDEX)}


class SeededSFT(trainers.SeededAdapters, PaddedSFT):
    """Fine-tuning with adapters that are the same in each process."""


class EpochTurns(trainers.StepTurns):
    """Takes one epoch over the conversations per turn."""

    def __init__(self, turn: Turn, tokens_per_epoch: int) -> None:
        """Keeps the connection."""
        super().__init__(turn)
        self.tokens_per_epoch = tokens_per_epoch
        self.tokens = self.computed = self.targets = 0
        self.nats = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts tokens; an epoch ends with its last token."""
        targets = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
        self.tokens += int(batch["lengths"].sum())
        self.computed += batch["input_ids"].numel()
        self.targets += targets
        self.nats += float(outputs["loss"]) * targets
        if self.tokens < self.tokens_per_epoch:
            return
        assert self.tokens == self.tokens_per_epoch
        loss = self.nats / self.targets
        counts = {"tokens": self.tokens, "computed": self.computed, "targets": self.targets}
        self.tokens = self.computed = self.targets = 0
        self.nats = 0.0
        self.turn.end(loss=loss, **counts)


def glmja_epochs(turn: Turn, scratch: Path, precision: str, packing: bool, row_len: int, tokens_per_batch: int) -> None:
    """Trains epochs with `PaddedSFT`."""
    files = {"chats": str(scratch / "chats.jsonl")}
    given = (scratch / "model", files, scratch, row_len, tokens_per_batch, packing)
    tokens = int(plan_batches(data_module(*given, 1)).ledger.facts["tokens"])
    module = SeededSFT(
        str(scratch / "model"),
        embeddings="frozen",
        dtype="float32",
        optimizer=trainers.adamw(LEARNING_RATE),
        lr_scheduler=partial(trainers.constant),
    )
    trainer = trainers.lightning_trainer(scratch, precision, [EpochTurns(turn, tokens)], max_steps=-1)
    trainer.fit(module, datamodule=data_module(*given, _MANY_EPOCHS))


def compare(scratch: Path, args: argparse.Namespace) -> list[Figures]:
    """Measures the speed of all contenders."""
    given = {"scratch": scratch, "precision": args.precision, "row_len": args.row_len}
    contenders: dict[str, Any] = {name: partial(hugging_face, name=name, **given) for name in HF}
    for name, packing in GLMJA.items():
        contenders[name] = partial(glmja_epochs, packing=packing, tokens_per_batch=args.tokens_per_batch, **given)
    if args.llamafactory:
        write_for_transformers(scratch)
        given |= {"python": args.llamafactory, "batch_size": args.tokens_per_batch // args.row_len}
        files = {"chats": str(scratch / "chats.jsonl")}
        data = plan_batches(data_module(scratch / "model", files, scratch, args.row_len, args.row_len, False, 1))
        contenders[LLAMA_FACTORY] = partial(llama_factory, tokens=int(data.ledger.facts["tokens"]), **given)
    measured, load = take_turns(contenders, args.rounds, warmup=0)
    first = measured[PADDED][0]
    table = Figures(
        f"{args.conversations} conversations, {first['tokens']:,} tokens a turn, {args.precision}, one thread",
        ["batches", "useful tokens/s", "CPU s / 1,000", "useful share", f"CPU time ÷ {PACKED}", "target", "mean loss"],
    )  # fmt: skip
    for name, done in measured.items():
        share = sum(turn["tokens"] for turn in done) / sum(turn["computed"] for turn in done)
        times = median_and_spread(ratios(done, measured[PACKED], "cpu"))
        table.rows.append([*row(name, done), f"{share:.1%}", times, TARGETS.get(name, ""), f"{done[0]['loss']:.5f}"])
    checked = [done for name, done in measured.items() if name != LLAMA_FACTORY]
    losses = [[done[0]["loss"]] for done in checked]
    apart = max(largest_difference(losses[0], other) for other in losses)
    same = {(turn["tokens"], turn["targets"]) for done in checked for turn in done}
    assert len(same) == 1, f"contenders trained on different tokens: {same}"
    table.notes += [
        f"{load}; largest relative difference of the mean losses {apart:.1e}; {int(first['targets']):,} target tokens.",
        f"glmja: tokens_per_batch {args.tokens_per_batch}, row_len {args.row_len}.",
    ]
    return [table]


def fill(data: Path, scratch: Path, row_len: int, tokens_per_batch: int) -> Figures:
    """Computes the share of tokens that are not padding over all conversations, without training."""
    files = conversation_files(data)
    tokenizer = data / "chatglm3" if (data / "chatglm3" / FILE_NAME).is_file() else scratch / "model"
    table = Figures(
        f"All of {', '.join(files)}: fill, row_len {row_len}, tokens_per_batch {tokens_per_batch}",
        ["mode", "conversations", "tokens", "rows", "micro-batches", "fill", "target"],
    )
    for packing, target in ((False, "≥ 95 %"), (True, "≥ 99.9 %")):
        made = plan_batches(data_module(tokenizer, files, scratch, row_len, tokens_per_batch, packing, 1))
        facts, read = made.ledger.facts, sum(int(entry["read"]) for entry in made.ledger.entries)
        cells = [f"{read:,}", *(f"{facts[key]:,}" for key in ("tokens", "rows", "micro_batches"))]
        table.rows.append(["packed" if packing else "padded", *cells, f"{facts['fill']:.3%}", target])
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=5, data=True)
    parser.add_argument("--conversations", type=int, default=64, help="Conversations per epoch.")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="Precision of the training.")
    parser.add_argument("--row_len", type=int, default=1024, help="Maximum tokens per row.")
    parser.add_argument("--tokens_per_batch", type=int, default=2048, help="Tokens per micro-batch of glmja.")
    parser.add_argument("--fill_only", action="store_true", help="Only compute the share of padding.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sample.")
    parser.add_argument("--llamafactory", type=Path, metavar="PYTHON", help="Interpreter of an environment with "
                        "LLaMA-Factory 0.9.5 (see benchmarks/data/llamafactory_peer.py).")  # fmt: skip
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_model(scratch / "model", options.data)
        tables = [fill(options.data.resolve(), scratch, options.row_len, 4096)]
        if not options.fill_only:
            sample(conversation_files(options.data), options.conversations, scratch / "chats.jsonl", options.seed)
            tables = compare(scratch, options) + tables
    publish([machine(["torch", "transformers", "peft", "lightning"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
