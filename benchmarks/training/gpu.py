"""Measures training at the size of ChatGLM3-6B on one GPU: `python -m benchmarks.training.gpu`; `--tiny` runs on a CPU.

Random bf16 weights of the exact shape are made on the device, so no model or text is needed. Each case runs in its own
process, so that one that runs out of memory does not end the others. Speeds are medians over windows of steps; only
tokens that are not padding count. Operations are those of `glmja.modeling.flops`: recomputation does not count in MFU.
If the environment variable `OUT` names a folder, results are also written there after each case. `--only` selects cases
by parts of their names.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, publish
from benchmarks.training.gpu_cases import CASES, tiny
from benchmarks.training.gpu_kernels import measure_parts
from benchmarks.training.gpu_model import SIX_B, TINY
from benchmarks.training.gpu_runs import NUM_STEPS, train


def _in_process(connection: Connection, work: Callable[[], Any]) -> None:
    warnings.filterwarnings("ignore")
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        connection.send(work())
    except Exception as error:  # one case must not end the others
        traceback.print_exc()
        connection.send({"error": f"{type(error).__name__}: {str(error).strip()[:200]}"})


def run_in_process(work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """Runs in a process of its own; returns its result, or a dictionary with `error`."""
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
    """Formats a row of the table."""
    if "error" in found:
        return [name, found["error"], *[""] * 5]
    mfu = f"{found['mfu']:.1%}" if found["mfu"] else "–"
    speeds = f"{found['tokens_per_s']:,.0f} ({found['least']:,.0f}–{found['most']:,.0f})"
    numbers = [f"{found['model_tflops']:.3g}", mfu, f"{found['peak_gb']:.1f}", f"{found['useful_share']:.1%}"]
    return [name, speeds, *numbers, f"{found['loss'][0]:.3f} → {found['loss'][-1]:.3f}"]


def keep(results: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    """Adds the result of a case, prints it, and writes all results if `OUT` is set."""
    results[name] = found
    print(name, json.dumps(found), flush=True)
    if out := os.environ.get("OUT"):
        (Path(out) / "gpu_training.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def part_cells(part: str, found: Any) -> list[str]:
    """Formats a row of the table of parts."""
    if part == "error":
        return [str(found), "", "", ""]
    times = f"{found['ms']:.2f} ({found['least']:.2f}–{found['most']:.2f})"
    return [part, times, f"{found['tflops']:.0f}" if found["tflops"] else "", f"{found['extra_gb']:.2f}"]


def compare(names: Sequence[str], small: bool, limit: float) -> list[Figures]:
    """Measures the parts and the cases with the given names."""
    config = TINY if small else SIX_B
    results: dict[str, Any] = {}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    parts = Figures(f"Parts of a step, {gpu}", ["part", "ms", "TFLOP/s", "extra GB"])
    headings = ["case", "tokens/s", "TFLOP/s", "MFU", "peak GB", "useful", "loss"]
    table = Figures(f"Training, {gpu}, {NUM_STEPS} steps", headings)
    if "parts" in names:
        keep(results, "parts", run_in_process(partial(measure_parts, config, 512 if small else 8192), limit))
        parts.rows += [part_cells(part, found) for part, found in results["parts"].items()]
    for case in CASES:
        if case.name in names:
            keep(results, case.name, run_in_process(partial(train, tiny(case) if small else case, config), limit))
            table.rows.append(cells(case.name, results[case.name]))
    return [parts, table]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="Use a tiny model and short rows.")
    parser.add_argument("--only", nargs="*", help="Run the cases whose names contain one of these; `parts`: the parts.")
    parser.add_argument("--skip", nargs="*", default=[], help="Skip the cases whose names contain one of these.")
    parser.add_argument("--list", action="store_true", help="Print the names of the cases and exit.")
    parser.add_argument("--limit", type=float, default=240, help="Maximum seconds per case.")
    options = parser.parse_args(args)
    names = [
        name
        for name in ("parts", *(case.name for case in CASES))
        if (options.only is None or any(part in name for part in options.only))
        and not any(part in name for part in options.skip)
    ]
    if options.list:
        print(*names, sep="\n")
    else:
        publish(compare(names, options.tiny, options.limit), options.markdown)


if __name__ == "__main__":
    main()
