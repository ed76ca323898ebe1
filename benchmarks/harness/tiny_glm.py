"""A GLM that trains on a laptop, and contenders that take turns on one machine.

Each contender is a process of its own, alive through the whole comparison, and works only when it is its turn: what
else the machine does meets all of them alike, and ratios hold where single times do not.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Sampler
from transformers import GlmForCausalLM, TrainerCallback, TrainingArguments
from transformers import Trainer as HFTrainer
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging as hf_logging

from benchmarks.harness.tables import Figures, data_folder
from glmja.files.documents import read_documents
from glmja.modeling.adapters import Embeddings, Lora, apply_tuning
from glmja.modeling.loading import load_model
from glmja.twin import build as twin

NUM_PIECES, NUM_PIECES_WITHOUT_DATA = 19_900, 2_500
HIDDEN_SIZE, NUM_LAYERS = 512, 8
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}

_DOCUMENTS_PER_LANGUAGE = 1500
_ENDLESS = 10**6  # steps: the one that asks for turns ends the run

Turns = list[dict[str, float]]


class Turn:
    """A contender's side of the agreement."""

    def __init__(self, connection: Connection) -> None:
        """Not yet its turn."""
        self.connection = connection

    def begin(self) -> None:
        """Tells that all is ready, and waits for the first turn."""
        self.connection.send(None)
        self.wait()

    def wait(self) -> None:
        """Returns when it is its turn, with a running clock."""
        self.connection.recv()
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def end(self, **counts: float) -> None:
        """Tells what it took and what was done, and waits for the next one."""
        spent = {"seconds": time.perf_counter() - self.start, "cpu": time.process_time() - self.cpu_start}
        self.connection.send(spent | counts)
        self.wait()


def take_turns(
    contenders: Mapping[str, Callable[[Turn], None]], num_rounds: int, warmup: int = 1
) -> tuple[dict[str, Turns], str]:
    """Lets each contender work once in each round, forwards and backwards in alternation.

    Args:
        contenders: Each calls `turn.begin()` once and `turn.end()` after each piece of work, without end; picklable.
        num_rounds: Rounds that count.
        warmup: Rounds before them.

    Returns:
        Their turns, those of the warm-up first; and the load average before and after.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Any, Connection]] = {}
    turns: dict[str, Turns] = {name: [] for name in contenders}
    load = [os.getloadavg()[0]]
    try:
        for name, work in contenders.items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_contend, args=(work, theirs))
            process.start()
            theirs.close()
            running[name] = process, mine
        for name in running:
            running[name][1].recv()
        for number in range(warmup + num_rounds):
            for name in list(contenders) if number % 2 else reversed(contenders):
                _, connection = running[name]
                connection.send(None)
                turns[name].append(connection.recv())
                print(f"round {number}: {name}: {json.dumps(turns[name][-1])}", flush=True)
    except EOFError as error:
        raise ChildProcessError(f"{name} ended early; its error stands above") from error
    finally:
        for process, connection in running.values():
            process.kill()
            process.join()
            connection.close()
    load.append(os.getloadavg()[0])
    return turns, f"load average {load[0]:.1f} before, {load[1]:.1f} after"


def _contend(work: Callable[[Turn], None], connection: Connection) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    hf_logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    work(Turn(connection))


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (least–most)`."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratios(theirs: Turns, ours: Turns, key: str = "seconds") -> list[float]:
    """Of each round: how many times as long the others took, for as much."""
    return [t[key] / o[key] for t, o in zip(theirs, ours, strict=True)]


def write_model(folder: Path, data: Path | None = None) -> None:
    """Writes weights and tokenizer of the tiny GLM.

    Args:
        folder: New folder.
        data: Folder of texts (`text/{ja,zh,en}.jsonl.gz`); what ships with the package, and a small vocabulary, where
            it is absent.
    """
    files = text_files(data)
    texts = [t for file in files.values() for t in islice(read_documents([file]), _DOCUMENTS_PER_LANGUAGE)]
    num_pieces = NUM_PIECES if files["ja"].suffix == ".gz" else NUM_PIECES_WITHOUT_DATA
    twin.build_base(folder, texts, num_pieces, HIDDEN_SIZE, NUM_LAYERS)


def text_files(data: Path | None = None) -> dict[str, Path]:
    """A file of each language."""
    folder = (data or Path(data_folder())) / "text"
    return {name: folder / f"{name}.jsonl.gz" if folder.is_dir() else twin.text_file(name) for name in twin.LANGUAGES}


def load_trainable(folder: str, embeddings: Embeddings = "full") -> nn.Module:
    """The model as peft has it, fp32, adapters alike in each process."""
    model: GlmForCausalLM = load_model(folder, torch.float32)
    torch.manual_seed(0)
    trainable = apply_tuning(model, "lora", embeddings, Lora(), [])
    return trainable.train()


def planned(data: Any) -> Any:
    """A data module of ours, set up as on one device."""
    data.trainer = SimpleNamespace(
        world_size=1, global_rank=0, accumulate_grad_batches=1, max_steps=-1, max_epochs=1, limit_train_batches=1.0
    )
    data.prepare_data()
    data.setup("fit")
    return data


def adamw(learning_rate: float) -> Callable[..., Optimizer]:
    """The optimizer of both sides."""
    return partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.0, fused=True)


def constant(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The schedule of both sides."""
    return LambdaLR(optimizer, lambda step: 1.0)


def lightning_trainer(scratch: Path, precision: str, callbacks: Sequence[Callback], **options: Any) -> Trainer:
    """Lightning's Trainer as a run has it, without logs and checkpoints."""
    defaults = {"logger": False, "max_steps": _ENDLESS, "max_epochs": 1}
    return Trainer(
        **defaults | options,
        accelerator="cpu",
        devices=1,
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        default_root_dir=scratch,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class StepByStep(Callback):
    """One optimizer step a turn."""

    def __init__(self, turn: Turn) -> None:
        """Not yet its turn."""
        self.turn = turn

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the first turn."""
        self.turn.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the turn. Listed last, so that what the other callbacks do is counted."""
        self.turn.end(loss=float(outputs["loss"]), tokens=int(batch["lengths"].sum()))


class GroupedByLength(Sampler[int]):
    """Hugging Face's order; its own sampler takes smaller groups where there are fewer than 1,600 rows."""

    def __init__(self, lengths: list[int], batch_size: int) -> None:
        """Takes the lengths."""
        self.lengths, self.batch_size = lengths, batch_size

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Row numbers, drawn anew."""
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, mega_batch_mult=50))


class HFRun(HFTrainer):
    """Hugging Face's Trainer, which keeps the sums of each step's loss and tokens.

    Attributes:
        seen: Sums since they were last taken.
    """

    seen: dict[str, float]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As Hugging Face does, but groups by length over 50 batches at once, as it would in a large data set."""
        if self.args.train_sampling_strategy == "group_by_length":
            return GroupedByLength([len(row["input_ids"]) for row in self.train_dataset], self.args.train_batch_size)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Hugging Face does, and counts."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        learnt = int((inputs["labels"][:, 1:] != -100).sum())
        computed = inputs["input_ids"].numel()
        tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else computed
        for key, value in {
            "nats": float(loss) * learnt,
            "learnt": learnt,
            "tokens": tokens,
            "computed": computed,
        }.items():
            self.seen[key] = self.seen.get(key, 0) + value
        return loss

    def take(self) -> dict[str, float]:
        """The sums, which start anew."""
        seen, self.seen = self.seen, {}
        return seen


def hf_trainer(
    model: nn.Module, dataset: Any, scratch: Path, precision: str, learning_rate: float, **options: Any
) -> HFRun:
    """Hugging Face's Trainer as it is usually used, with the optimizer that is fastest here."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=precision == "bf16",
        optim="adamw_torch_fused",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **options.pop("arguments"),
    )
    trainer = HFRun(model=model, args=arguments, train_dataset=dataset, **options)
    trainer.seen = {}
    return trainer


class HFTurns(TrainerCallback):
    """A turn is an optimizer step or an epoch of Hugging Face's Trainer."""

    def __init__(self, turn: Turn, per_epoch: bool = False) -> None:
        """Not yet its turn; `trainer` is to be set."""
        self.turn, self.per_epoch = turn, per_epoch
        self.trainer: HFRun

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Waits for the first turn."""
        self.turn.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends a turn of one step."""
        if not self.per_epoch:
            self._end()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends a turn of one epoch."""
        if self.per_epoch:
            self._end()

    def _end(self) -> None:
        seen = self.trainer.take()
        self.turn.end(loss=seen["nats"] / seen["learnt"], **seen)


def per_second(turns: Turns, key: str = "tokens") -> list[float]:
    """Of each turn."""
    return [turn[key] / turn["seconds"] for turn in turns]


def row(name: str, turns: Turns) -> list[str]:
    """Name, useful tokens per second, seconds, and CPU-seconds per 1,000 useful tokens."""
    cpu = [1000 * turn["cpu"] / turn["tokens"] for turn in turns]
    return [name, median_and_spread(per_second(turns), 0), median_and_spread(cpu)]


def furthest(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))


def curve(title: str, curves: Mapping[str, Sequence[float]], num_shown: int = 8) -> Figures:
    """Losses side by side, some of the steps."""
    num_steps = min(map(len, curves.values()))
    shown = range(0, num_steps, -(-num_steps // num_shown))
    table = Figures(title, ["contender", *[f"step {i + 1}" for i in shown]])
    for name, losses in curves.items():
        table.rows.append([name, *[f"{losses[i]:.4f}" for i in shown]])
    return table
