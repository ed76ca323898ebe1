"""What Lightning's Trainer adds to a step: `python -m benchmarks.training.lightning_overhead`.

Our module in Lightning's Trainer, with a logger and the callbacks of a normal recipe, beside a bare loop in plain torch
over the same module's loss with the same AdamW, clipping, schedule and batches. They take turns step by step.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn.utils import clip_grad_norm_

from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.tiny_glm import (
    PRECISIONS,
    StepByStep,
    Turn,
    Turns,
    furthest,
    lightning_trainer,
    median_and_spread,
    planned,
    ratios,
    row,
    take_turns,
    write_model,
)
from benchmarks.training.training_step import data_module, module
from callbacks import NonFiniteGuard, Throughput

BARE, LIGHTNING = "bare loop", "Lightning"
TARGET = "≤ 1.03"
SHAPES = ((512, 4), (128, 1))  # a normal micro-batch, and one so small that what is added shows


def lightning(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """Steps in Lightning's Trainer."""
    run_dir = scratch / f"run-{precision}-{row_len}"
    callbacks = [Throughput(), NonFiniteGuard(), LearningRateMonitor("step"), StepByStep(turn)]
    logger = TensorBoardLogger(run_dir, name="tensorboard", version="")
    trainer = lightning_trainer(run_dir, precision, callbacks, logger=logger, log_every_n_steps=5)
    trainer.fit(module(scratch), datamodule=data_module(scratch, row_len, batch_size))


def bare(turn: Turn, scratch: Path, precision: str, row_len: int, batch_size: int) -> None:
    """The same steps without a Trainer."""
    ours, data = module(scratch), planned(data_module(scratch, row_len, batch_size))
    trained = [p for p in ours.parameters() if p.requires_grad]
    optimizer = ours.optimizer(trained)
    schedule = ours.lr_scheduler(optimizer, data.num_steps)
    turn.begin()
    for batch in data.train_dataloader():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = ours.loss(batch)[0] / batch["mean_target_tokens"]
        loss.backward()
        clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        turn.end(loss=float(loss), tokens=int(batch["lengths"].sum()))


def compare(scratch: Path, num_rounds: int, num_pairs: int) -> Figures:
    """The table."""
    table = Figures(
        "A step in Lightning beside a bare loop, one thread",
        ["step", "tokens/s", "CPU s per 1,000 tokens", "times bare", "times bare, CPU", "ms more", "target"],
    )
    warmup = 2
    for precision in PRECISIONS:
        for row_len, batch_size in SHAPES:
            given = {"scratch": scratch, "precision": precision, "row_len": row_len, "batch_size": batch_size}
            contenders = {BARE: partial(bare, **given), LIGHTNING: partial(lightning, **given)}
            rounds = num_rounds * (1 if row_len * batch_size > 1000 else 5)
            measured: dict[str, Turns] = {name: [] for name in contenders}
            for _ in range(num_pairs):
                turns, load = take_turns(contenders, rounds, warmup)
                apart = furthest(*([turn["loss"] for turn in done] for done in turns.values()))
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
                f"{title}: {num_pairs} pairs of processes, {rounds} rounds each, {load}; losses differ by {apart:.1e} "
                "of their value at most."
            )
    table.notes.append("`ms more` is processor time; ratios are paired, the two steps of a round with each other.")
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=10, help="Steps of each that count; five times as many small ones."
    )
    parser.add_argument(
        "--pairs", type=int, default=3, help="Pairs of processes; which pages one gets slows or speeds all its steps."
    )
    parser.add_argument("--markdown", help="File to write the tables to.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch) / "model")
        tables = [compare(Path(scratch), args.rounds, args.pairs)]
    publish([machine(["torch", "lightning"]), *tables], args.markdown)


if __name__ == "__main__":
    main()
