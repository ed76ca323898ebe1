"""A pretraining step beside Hugging Face's: `python -m benchmarks.training.training_step`.

A tiny GLM (width 512, 8 layers, 20,000 pieces) with adapters on all linear layers and full embeddings learns packed
rows. One side is `lit_modules.PackedPretraining` in Lightning's Trainer, the other Hugging Face's Trainer on the same
peft model with its usual loss; both get the same rows in the same order, positions included, the same fused AdamW,
schedule, clipping, dtype and thread. They take turns step by step.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.tiny_glm import (
    PRECISIONS,
    HFTurns,
    StepByStep,
    Turn,
    Turns,
    adamw,
    constant,
    curve,
    furthest,
    hf_trainer,
    lightning_trainer,
    load_trainable,
    median_and_spread,
    planned,
    ratios,
    row,
    take_turns,
    text_files,
    write_model,
)
from data_modules import PackedPretrainingData, TextSource
from lit_modules import PackedPretraining

LEARNING_RATE = 1e-3
HF, OURS = "HF Trainer + peft", "ours, Lightning"
TARGETS = {"fp32": "≥ 1.00", "bf16": "≥ 1.10"}


def data_module(scratch: Path, row_len: int, batch_size: int) -> PackedPretrainingData:
    """English text: the smallest of the files."""
    source = TextSource(name="en", lang="en", files=[str(text_files()["en"])])
    return PackedPretrainingData(
        str(scratch / "model"), [source], row_len, batch_size, val_share=0, epochs=1, cache_dir=str(scratch / "cache")
    )


def module(scratch: Path) -> PackedPretraining:
    """Ours, with adapters alike in each process."""
    made = PackedPretraining(
        str(scratch / "model"), dtype="float32", optimizer=adamw(LEARNING_RATE), lr_scheduler=constant
    )
    torch.manual_seed(0)
    made.configure_model()
    return made


def ours(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Steps of our module."""
    trainer = lightning_trainer(scratch, precision, [StepByStep(turn)])
    trainer.fit(module(scratch), datamodule=data_module(scratch, row_len, batch_size))


def hugging_face(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Steps of Hugging Face's Trainer."""
    callback = HFTurns(turn)
    trainer = hf_trainer(
        load_trainable(str(scratch / "model")),
        SameRows(data_module(scratch, row_len, batch_size)),
        scratch / "hf",
        precision,
        LEARNING_RATE,
        callbacks=[callback],
        arguments={
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": 1,
            "train_sampling_strategy": "sequential",
        },
    )
    callback.trainer = trainer
    trainer.train()


class SameRows(Dataset[dict[str, Tensor]]):
    """The rows of our data module in the order of its plan."""

    def __init__(self, data: PackedPretrainingData) -> None:
        """Plans the run."""
        self.rows: Any = planned(data).rows
        self.order = [int(number) for numbers in data.plan for number in numbers]

    def __len__(self) -> int:
        """Rows of the run."""
        return len(self.order)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Row i, without a mask: positions restart at each document."""
        return {name: torch.from_numpy(ids) for name, ids in self.rows[self.order[i]]._asdict().items()}


def compare(scratch: Path, num_rounds: int, row_len: int, batch_size: int) -> list[Figures]:
    """The table, and the losses that both saw."""
    table = Figures(
        f"Pretraining step, {batch_size} rows of {row_len}, one thread",
        ["trainer", "tokens/s", "CPU s per 1,000 tokens", "times HF", "times HF, CPU", "target"],
    )
    curves = []
    for precision in PRECISIONS:
        given = {"scratch": scratch, "precision": precision, "row_len": row_len, "batch_size": batch_size}
        warmup = 2
        contenders = {HF: partial(hugging_face, **given), OURS: partial(ours, **given)}
        turns, load = take_turns(contenders, num_rounds, warmup)
        losses = {f"{precision}, {name}": [turn["loss"] for turn in done] for name, done in turns.items()}
        measured: dict[str, Turns] = {name: done[warmup:] for name, done in turns.items()}
        table.rows.append([*row(f"{precision}, {HF}", measured[HF]), "1", "1", ""])
        times = [median_and_spread(ratios(measured[HF], measured[OURS], key)) for key in ("seconds", "cpu")]
        table.rows.append([*row(f"{precision}, {OURS}", measured[OURS]), *times, TARGETS[precision]])
        apart = furthest(*losses.values())
        table.notes.append(f"{precision}: {load}; losses differ by {apart:.1e} of their value at most.")
        curves.append(curve(f"Loss, {precision}", losses))
    return [table, *curves]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="Steps of each contender that count.")
    parser.add_argument("--row_len", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--markdown", help="File to write the tables to.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch) / "model")
        tables = compare(Path(scratch), args.rounds, args.row_len, args.batch_size)
    publish([machine(["torch", "transformers", "peft", "lightning"]), *tables], args.markdown)


if __name__ == "__main__":
    main()
