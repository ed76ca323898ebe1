"""Measures a pretraining step against Hugging Face's Trainer: `python -m benchmarks.training.training_step`.

A tiny GLM (width 512, 8 layers, 20,000 pieces) with adapters on all linear layers and full embeddings trains on packed
rows. One side is `lit_modules.PackedPretraining` in Lightning's Trainer, the other Hugging Face's Trainer on the same
peft model with its usual loss. Both use the same rows and positions in the same order, the same fused AdamW, schedule,
clipping, dtype, and one thread. They take turns step by step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.harness import tiny_glm
from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.trainers import (
    PRECISIONS,
    HFTurns,
    SeededAdapters,
    StepTurns,
    adamw,
    constant,
    hf_trainer,
    lightning_trainer,
)
from benchmarks.harness.turns import (
    Turn,
    Turns,
    curve,
    largest_difference,
    median_and_spread,
    ratios,
    row,
    take_turns,
)
from data_modules import PackedPretrainingData, TextSource
from lit_modules import PackedPretraining
from lit_modules.cpu import has_bf16_instructions

LEARNING_RATE = 1e-3
HF, GLMJA = "HF Trainer + peft", "glmja, Lightning"
TARGETS = {"fp32": "≥ 1.00", "bf16": "≥ 1.10"}


def data_module(scratch: Path, row_len: int, batch_size: int) -> PackedPretrainingData:
    """Makes the data module of English text, the smallest of the files."""
    source = TextSource(name="en", lang="en", files=[str(tiny_glm.text_files()["en"])])
    return PackedPretrainingData(
        str(scratch / "model"), [source], row_len, batch_size, val_share=0, epochs=1, cache_dir=str(scratch / "cache")
    )


class SeededPretraining(SeededAdapters, PackedPretraining):
    """Pretraining with adapters that are the same in each process."""


def module(scratch: Path) -> PackedPretraining:
    """Makes the module."""
    folder = str(scratch / "model")
    return SeededPretraining(folder, dtype="float32", optimizer=adamw(LEARNING_RATE), lr_scheduler=constant)


def glmja_steps(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Takes steps of `PackedPretraining`."""
    trainer = lightning_trainer(scratch, precision, [StepTurns(turn)])
    trainer.fit(module(scratch), datamodule=data_module(scratch, row_len, batch_size))


def hugging_face(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Takes steps of Hugging Face's Trainer."""
    callback = HFTurns(turn)
    trainer = hf_trainer(
        tiny_glm.load_trainable(str(scratch / "model")),
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
    """The rows of the data module in the order of its plan."""

    def __init__(self, data: PackedPretrainingData) -> None:
        """Plans the batches."""
        self.rows: Any = tiny_glm.plan_batches(data).rows
        self.order = [int(number) for numbers in data.plan for number in numbers]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.order)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Returns row i without a mask; positions restart at each document."""
        row = self.rows[self.order[i]]._asdict()
        return {name: torch.from_numpy(ids) for name, ids in row.items() if isinstance(ids, np.ndarray)}


def compare(scratch: Path, num_rounds: int, row_len: int, batch_size: int) -> list[Figures]:
    """Compares both for all precisions; returns the table and the losses."""
    table = Figures(
        f"Pretraining step, {batch_size} rows of {row_len}, one thread",
        ["trainer", "tokens/s", "CPU s per 1,000 tokens", "times HF", "times HF, CPU", "target"],
    )
    curves = []
    for precision in PRECISIONS if has_bf16_instructions() else ["fp32"]:
        given: dict[str, Any] = {
            "scratch": scratch,
            "precision": precision,
            "row_len": row_len,
            "batch_size": batch_size,
        }
        warmup = 2
        contenders = {HF: partial(hugging_face, **given), GLMJA: partial(glmja_steps, **given)}
        turns, load = take_turns(contenders, num_rounds, warmup)
        losses = {f"{precision}, {name}": [turn["loss"] for turn in done] for name, done in turns.items()}
        measured: dict[str, Turns] = {name: done[warmup:] for name, done in turns.items()}
        table.rows.append([*row(f"{precision}, {HF}", measured[HF]), "1", "1", ""])
        times = [median_and_spread(ratios(measured[HF], measured[GLMJA], key)) for key in ("seconds", "cpu")]
        table.rows.append([*row(f"{precision}, {GLMJA}", measured[GLMJA]), *times, TARGETS[precision]])
        apart = largest_difference(*losses.values())
        table.notes.append(f"{precision}: {load}; largest relative difference of the losses {apart:.1e}.")
        curves.append(curve(f"Loss, {precision}", losses))
    return [table, *curves]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=10)
    parser.add_argument("--row_len", type=int, default=512, help="Tokens per row.")
    parser.add_argument("--batch_size", type=int, default=4, help="Rows per step.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        tiny_glm.write_model(Path(scratch) / "model")
        tables = compare(Path(scratch), options.rounds, options.row_len, options.batch_size)
    publish([machine(["torch", "transformers", "peft", "lightning"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
