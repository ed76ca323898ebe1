"""Counts page faults of training steps on a CPU: `python -m benchmarks.training.page_faults`.

The tiny GLM of `benchmarks.training.training_step` trains under Lightning in bf16-mixed, each time in a process of its
own: with the settings of `lit_modules.cpu.keep_freed_memory` and with those of the C library.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from benchmarks.harness import tiny_glm
from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.trainers import lightning_trainer
from benchmarks.training.training_step import data_module, module
from lit_modules.cpu import keep_freed_memory

WARMUP, STEPS = 4, 12


class Usage(Callback):
    """Records faults and processor time of each step."""

    def __init__(self) -> None:
        """Creates an empty record."""
        self.records: list[tuple[int, float, float]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Starts a step."""
        self.start = resource.getrusage(resource.RUSAGE_SELF)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Ends a step, and the run after the last one."""
        a, b = self.start, resource.getrusage(resource.RUSAGE_SELF)
        self.records.append((b.ru_minflt - a.ru_minflt, b.ru_utime - a.ru_utime, b.ru_stime - a.ru_stime))
        trainer.should_stop = len(self.records) == WARMUP + STEPS


def train(folder: Path, keep: bool, num_rows: int, row_len: int) -> None:
    """Trains, and prints the medians of a step and the peak memory in KiB."""
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    usage = Usage()
    trainer = lightning_trainer(folder, "bf16", [usage])
    trainer.fit(module(folder), datamodule=data_module(folder, row_len, num_rows))
    medians = [statistics.median(values) for values in zip(*usage.records[WARMUP:], strict=True)]
    print(json.dumps([*medians, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--row_len", type=int, default=512, help="Tokens per row.")
    parser.add_argument("--batch_size", type=int, default=4, help="Rows per step.")
    parser.add_argument("--child", nargs=2, help="Folder of the model, and whether to keep freed memory.")
    options = parser.parse_args(args)
    if options.child:
        train(Path(options.child[0]), options.child[1] == "keep", options.batch_size, options.row_len)
        return
    title = f"Steps of {options.batch_size} rows of {options.row_len} in bf16-mixed, one thread, medians of {STEPS}"
    table = Figures(title, ["freed memory", "page faults", "user CPU s", "system CPU s", "peak MB"])
    with tempfile.TemporaryDirectory() as scratch:
        tiny_glm.write_model(Path(scratch) / "model")
        for how in ("return", "keep"):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training.page_faults", "--child", scratch, how,
                       "--row_len", str(options.row_len), "--batch_size", str(options.batch_size)]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            faults, user, system, peak = json.loads(done.stdout.splitlines()[-1])
            name = "kept by the process" if how == "keep" else "returned to the kernel"
            table.rows.append([name, f"{faults:,.0f}", f"{user:.2f}", f"{system:.3f}", f"{peak / 1e3:,.0f}"])
    publish([machine(["torch", "lightning"]), table], options.markdown)


if __name__ == "__main__":
    main()
