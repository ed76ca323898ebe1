"""Measures the loader of wide and long runs on one machine: `python -m benchmarks.data.wide_runs`.

A rank plans the whole run, and loads its own micro-batches. This measures one rank among many, on made-up documents:
only their lengths are real, the tokens are a sparse file of zeros. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.harness.arguments import ROOT, benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.loader import LoaderState, PlannedBatches, RunLoader
from data_modules.batches.packing import PackedRows, interleave
from data_modules.held_out import split

ROW_LEN, ACCUMULATE, BATCH_SIZE = 1024, 8, 1
SHARES = (0.76, 0.12, 0.12)
MEAN_LENGTH = 1000  # tokens of a document, with a long tail
NUM_BATCHES = 100


def make_store(num_tokens: int, seed: int, folder: Path) -> SimpleNamespace:
    """Returns a source of about as many tokens, without content."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(MEAN_LENGTH) - 0.5, 1.0, num_tokens // MEAN_LENGTH).astype(np.int64) + 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    path = folder / f"{seed}.bin"
    with path.open("wb") as file:
        file.truncate(int(starts[-1]) * 4)
    return SimpleNamespace(tokens=np.memmap(path, dtype=np.uint32, mode="r"), starts=starts, lengths=lengths)


def plan(stores: Sequence[SimpleNamespace], num_ranks: int) -> RunLoader:
    """Plans a run as `data_modules.PackedPretrainingData` does, and returns the loader of its second rank."""
    streams = []
    for i, store in enumerate(stores):
        used, _ = split(len(store.lengths), 0.001, (0, i), str(i))
        streams.append(DocumentStream(store.lengths, used, (0, i)))
    num_rows = sum(stream.tokens_per_pass for stream in streams) // ROW_LEN
    num_rows -= num_rows % (num_ranks * ACCUMULATE * BATCH_SIZE)
    rows = PackedRows(stores, streams, interleave(SHARES, num_rows), ROW_LEN)
    batches = PlannedBatches(rows, np.arange(num_rows).reshape(-1, BATCH_SIZE), 1, num_ranks, ACCUMULATE)
    return RunLoader(batches, 0, "")


def measure(num_tokens: int, num_ranks: int, folder: Path) -> dict[str, float]:
    """Measures one rank from the plan to micro-batches at the start and in the middle of a run."""
    stores = [make_store(int(num_tokens * share), i, folder) for i, share in enumerate(SHARES)]
    found: dict[str, float] = {}
    for name, done in (("start", 0.0), ("resume", 0.5)):
        before = time.process_time()
        loader = plan(stores, num_ranks)
        found[f"{name}: plan"] = time.process_time() - before
        had = int(done * len(loader))
        loader.load_state_dict(LoaderState(micro_batches=had, fingerprint="", world_size=num_ranks))
        before = time.process_time()
        iterator = iter(loader)
        next(iterator)
        found[f"{name}: first batch"] = time.process_time() - before
        before = time.process_time()
        for _ in range(NUM_BATCHES):
            next(iterator)
        found[f"{name}: batch"] = (time.process_time() - before) / NUM_BATCHES
        found.setdefault("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # with one plan, as a run
    return found


def in_new_process(num_tokens: int, num_ranks: int, scratch: str) -> dict[str, Any]:
    """Returns what `measure` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data.wide_runs", "--measure", f"--tokens={num_tokens}"]
    command += [f"--ranks={num_ranks}", f"--scratch={scratch}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def table(settings: argparse.Namespace, scratch: str) -> Figures:
    """Measures all sizes."""
    figures = Figures(
        f"One rank of a run over packed rows of {ROW_LEN} tokens, {ACCUMULATE} micro-batches a step",
        ["tokens", "ranks", "plan, s", "first batch, s", "after a resume, s", "micro-batch, ms", "peak MB"],
        notes=[
            f"Documents of {MEAN_LENGTH} tokens on average, three sources. A resume is in the middle of the run.",
            "Seconds are those of the processor.",
        ],
    )
    for num_tokens in settings.tokens:
        for num_ranks in settings.ranks:
            found = in_new_process(int(num_tokens), num_ranks, scratch)
            batch = max(found["start: batch"], found["resume: batch"])
            seconds = [found[name] for name in ("start: plan", "start: first batch", "resume: first batch")]
            cells = [*(f"{value:.2f}" for value in seconds), f"{1e3 * batch:.2f}", f"{found['peak'] / 1e6:,.0f}"]
            figures.rows.append([f"{num_tokens / 1e9:g} B", str(num_ranks), *cells])
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, scratch=True)
    parser.add_argument(
        "--tokens", type=float, nargs="+", default=[1e9, 1e10, 1e11], help="Lengths of the runs in tokens."
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512], help="Numbers of ranks.")
    parser.add_argument("--measure", action="store_true", help="Measure one size and print JSON.")
    settings = parser.parse_args(args)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        if settings.measure:
            print(json.dumps(measure(int(settings.tokens[0]), settings.ranks[0], Path(scratch))))
        else:
            publish([machine(["numpy"]), table(settings, scratch)], settings.markdown)


if __name__ == "__main__":
    main()
