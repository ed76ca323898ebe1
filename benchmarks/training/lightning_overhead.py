"""Measures the overhead of Lightning's Trainer per step: `python -m benchmarks.training.lightning_overhead`.

`PackedPretraining` in Lightning's Trainer, with a logger and the callbacks of a recipe, is compared with a bare PyTorch
loop over the same module's loss with the same AdamW, clipping, schedule and batches. They take turns step by step, and
both keep freed memory, as `glmja.fit` does on a CPU. bf16 is left out where the CPU has no instructions for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn.utils import clip_grad_norm_

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.tiny_glm import load_trainable, plan_batches, write_model
from benchmarks.harness.trainers import PRECISIONS, StepTurns, lightning_trainer
from benchmarks.harness.turns import (
    Turn,
    Turns,
    largest_difference,
    median_and_spread,
    ratios,
    row,
    take_turns,
)
from benchmarks.training.training_step import data_module, module
from callbacks import NonFiniteGuard, Throughput
from lit_modules.cpu import has_bf16_instructions, keep_freed_memory
from lit_modules.schedules import create_schedule

BARE, LIGHTNING = "bare loop", "Lightning"
TARGET = "≤ 1.03"
SHAPES = ((512, 4), (128, 1))  # a usual micro-batch, and one so small that the overhead is visible


def lightning(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Takes steps in Lightning's Trainer."""
    keep_freed_memory()
    run_dir = scratch / f"run-{precision}-{row_len}"
    callbacks = [Throughput(), NonFiniteGuard(), LearningRateMonitor("step"), StepTurns(turn)]
    logger = TensorBoardLogger(run_dir, name="tensorboard", version="")
    trainer = lightning_trainer(run_dir, precision, callbacks, logger=logger, log_every_n_steps=5)
    trainer.fit(module(scratch), datamodule=data_module(scratch, row_len, batch_size))


def bare(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Takes the same steps without a Trainer."""
    keep_freed_memory()
    made, data = module(scratch), plan_batches(data_module(scratch, row_len, batch_size))
    made.model = load_trainable(str(scratch / "model"))
    trained = [p for p in made.parameters() if p.requires_grad]
    optimizer = made.optimizer(trained)
    schedule = create_schedule(made.lr_scheduler, optimizer, data.num_steps)
    turn.begin()
    for batch in data.train_dataloader():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = made.loss(batch)[0] / batch["mean_target_tokens"]
        loss.backward()
        clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        turn.end(loss=float(loss), tokens=int(batch["lengths"].sum()))


def compare(scratch: Path, num_rounds: int, num_pairs: int) -> Figures:
    """Compares both for all precisions and shapes."""
    table = Figures(
        "A step in Lightning beside a bare loop, one thread",
        ["step", "tokens/s", "CPU s per 1,000 tokens", "times bare", "times bare, CPU", "ms more", "target"],
    )
    warmup = 2
    for precision in PRECISIONS if has_bf16_instructions() else ["fp32"]:
        for row_len, batch_size in SHAPES:
            given: dict[str, Any] = {
                "scratch": scratch,
                "precision": precision,
                "row_len": row_len,
                "batch_size": batch_size,
            }
            contenders = {BARE: partial(bare, **given), LIGHTNING: partial(lightning, **given)}
            rounds = num_rounds * (1 if row_len * batch_size > 1000 else 5)
            measured: dict[str, Turns] = {name: [] for name in contenders}
            for _ in range(num_pairs):
                turns, load = take_turns(contenders, rounds, warmup)
                apart = largest_difference(*([turn["loss"] for turn in done] for done in turns.values()))
                for name, done in turns.items():
                    measured[name] += done[warmup:]
            title = f"{precision}, {batch_size} × {row_len}"
            table.rows.append([*row(f"{title}, {BARE}", measured[BARE]), "1", "1", "", ""])
            times = [
                median_and_spread(ratios(measured[LIGHTNING], measured[BARE], key), 3) for key in ("seconds", "cpu")
            ]
            pairs = zip(measured[LIGHTNING], measured[BARE], strict=True)
            more = median_and_spread([1000 * (slow["cpu"] - fast["cpu"]) for slow, fast in pairs], 0)
            table.rows.append([*row(f"{title}, {LIGHTNING}", measured[LIGHTNING]), *times, more, TARGET])
            table.notes.append(
                f"{title}: {num_pairs} pairs of processes, {rounds} rounds each, {load}; largest relative difference "
                f"of the losses {apart:.1e}."
            )
    table.notes.append("`ms more` is processor time. Ratios compare the two steps of a round.")
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=10)
    parser.add_argument(
        "--pairs", type=int, default=3, help="Pairs of processes, since speed also depends on a process's memory pages."
    )
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch) / "model")
        table = compare(Path(scratch), options.rounds, options.pairs)
    publish([machine(["torch", "lightning"]), table], options.markdown)


if __name__ == "__main__":
    main()
