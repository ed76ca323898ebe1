"""Measures resizing the embeddings of a 6B model: `python -m benchmarks.weights.resize`.

The baseline is copying the files, since a Zero model consists of nearly the same bytes. A checkpoint of ChatGLM3-6B's
size is written, then copied and resized in turns, each time with a cold page cache; the time includes `sync`. Needs
about 40 GB of disk, and root permissions to empty the cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import Cost, cost_of
from benchmarks.harness.synthetic_checkpoint import folder_bytes, write_checkpoint
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate
from glmja.build_tokenizer import build_tokenizer

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def drop_cache() -> bool:
    """Writes everything to the disk and empties the page cache; returns whether that was permitted."""
    os.sync()
    try:
        _DROP_CACHES.write_text("3", encoding="utf-8")
    except OSError:
        return False
    return True


def measure(command: list[str], output: Path, cold: bool) -> tuple[Cost, str, int]:
    """Runs a command and removes its output; returns its cost, the state of the cache, and the size of the output."""
    state = "cold" if cold and drop_cache() else "as left"
    cost = cost_of(command, sync=True)
    size = folder_bytes(output)
    shutil.rmtree(output)
    return cost, state, size


def rounds(base: Path, commands: dict[str, list[str]], output: Path, num_rounds: int, cold: bool) -> list[Figures]:
    """Runs the commands in turns; returns the tables of medians and of all runs."""
    table = Figures("Runs", ["round", "command", "cache", "seconds", "disk read GB", "disk written GB", "peak GB"])
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks, sizes = dict.fromkeys(commands, 0), {}
    for name in alternate(commands, num_rounds):
        cost, state, sizes[name] = measure(commands[name], output, cold)
        seconds[name].append(cost.seconds)
        peaks[name] = max(peaks[name], cost.peak_bytes)
        number = str(len(seconds[name]))
        moved = [f"{size / 1e9:.2f}" for size in (cost.read_bytes, cost.written_bytes)]
        table.rows.append([number, name, state, f"{cost.seconds:.1f}", *moved, f"{cost.peak_bytes / 1e9:.3f}"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = medians["cp"]
    summary = Figures(
        f"Copying and resizing a checkpoint of {folder_bytes(base) / 1e9:.2f} GB",
        ["command", "median seconds", "times cp", "largest peak GB", "GB written"],
        [[name, f"{medians[name]:.1f}", f"{medians[name] / floor:.2f}", f"{peaks[name] / 1e9:.3f}",
          f"{sizes[name] / 1e9:.2f}"] for name in commands],
        ["Times include a sync. Resizing ran with `--check_greedy false`."],
    )  # fmt: skip
    return [summary, table]


def compare(data: Path, num_layers: int, num_rounds: int, cold: bool, scratch: Path) -> list[Figures]:
    """Makes all tables."""
    base, tokenizer, output = scratch / "base", scratch / "tokenizer", scratch / "output"
    build_tokenizer(str(data / "chatglm3"), str(tokenizer), corpus=[str(data / "text" / "ja.jsonl.gz")])
    write_checkpoint(base, data / "chatglm3", num_layers)
    arguments = [f"--base={base}", f"--tokenizer={tokenizer}", f"--output={output}", "--check_greedy=false"]
    commands = {
        "cp": ["cp", "-r", str(base), str(output)],
        "resize": [sys.executable, "-m", "glmja.resize_embeddings", *arguments],
    }
    return rounds(base, commands, output, num_rounds, cold)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the size of the checkpoint and the state of the cache."""
    parser.add_argument("--layers", type=int, default=28, help="Layers of the checkpoint; ChatGLM3-6B has 28.")
    parser.add_argument("--warm", action="store_true", help="Do not empty the page cache between runs.")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3, data=True, scratch=True)
    add_checkpoint_arguments(parser)
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        tables = compare(options.data.resolve(), options.layers, options.rounds, not options.warm, Path(scratch))
    publish([machine(["torch", "transformers", "safetensors", "sentencepiece"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
