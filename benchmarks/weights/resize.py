"""`python -m benchmarks.weights.resize`: how long growing the embeddings of a 6B model takes, beside copying its files.

Copying is the floor: a Zero model has other files, but nearly all of their bytes. A checkpoint of
ChatGLM3-6B's size is made, and copied and resized in turns, each time with a cold page cache and
with the clock running until everything is on the disk. Needs about 40 GB of disk; root for a cold cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

# A script finds its own folder on Python's path; the packages lie one above.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.harness.process_cost import Cost, cost_of
from benchmarks.harness.synthetic_checkpoint import folder_bytes, write_checkpoint
from benchmarks.harness.tables import Figures, data_folder, machine, publish
from glmja.build_tokenizer import build_tokenizer

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def drop_cache() -> bool:
    """Writes everything to the disk and empties the page cache; whether that was permitted."""
    os.sync()
    try:
        _DROP_CACHES.write_text("3", encoding="utf-8")
    except OSError:
        return False
    return True


def measure(command: list[str], output: Path, cold: bool) -> tuple[Cost, str, int]:
    """Cost of a command, whether the cache was cold, and the bytes that it left in its output, which is removed."""
    state = "cold" if cold and drop_cache() else "as left"
    cost = cost_of(command, sync=True)
    size = folder_bytes(output)
    shutil.rmtree(output)
    return cost, state, size


def rounds(base: Path, commands: dict[str, list[str]], output: Path, num_rounds: int, cold: bool) -> list[Figures]:
    """Runs the commands in turns; the table of all runs, and that of the medians."""
    table = Figures("Runs", ["round", "command", "cache", "seconds", "disk read GB", "disk written GB", "peak GB"])
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks, sizes = dict.fromkeys(commands, 0), {}
    for number in range(1, num_rounds + 1):
        for name in list(commands) if number % 2 else reversed(commands):
            print(f"round {number}: {name}", flush=True)
            cost, state, sizes[name] = measure(commands[name], output, cold)
            seconds[name].append(cost.seconds)
            peaks[name] = max(peaks[name], cost.peak_bytes)
            moved = [f"{size / 1e9:.2f}" for size in (cost.read_bytes, cost.written_bytes)]
            table.rows.append([str(number), name, state, f"{cost.seconds:.1f}", *moved, f"{cost.peak_bytes / 1e9:.3f}"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = medians["cp"]
    summary = Figures(
        f"Copying and resizing a checkpoint of {folder_bytes(base) / 1e9:.2f} GB",
        ["command", "median seconds", "times cp", "largest peak GB", "GB written"],
        [[name, f"{medians[name]:.1f}", f"{medians[name] / floor:.2f}", f"{peaks[name] / 1e9:.3f}",
          f"{sizes[name] / 1e9:.2f}"] for name in commands],
        ["Both end with a sync, which is counted. Resizing ran with `--check_greedy false`."],
    )  # fmt: skip
    return [summary, table]


def compare(data: Path, num_layers: int, num_rounds: int, cold: bool, scratch: Path) -> list[Figures]:
    """All tables."""
    base, tokenizer, output = scratch / "base", scratch / "tokenizer", scratch / "output"
    build_tokenizer(str(data / "chatglm3"), str(tokenizer), corpus=[str(data / "text" / "ja.jsonl.gz")])
    write_checkpoint(base, data / "chatglm3", num_layers)
    arguments = [f"--base={base}", f"--tokenizer={tokenizer}", f"--output={output}", "--check_greedy=false"]
    commands = {
        "cp": ["cp", "-r", str(base), str(output)],
        "resize": [sys.executable, "-m", "glmja.resize_embeddings", *arguments],
    }
    return rounds(base, commands, output, num_rounds, cold)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(data_folder()), help="Folder of texts and models.")
    parser.add_argument("--layers", type=int, default=28, help="Layers of the checkpoint; ChatGLM3-6B has 28.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each command.")
    parser.add_argument("--warm", action="store_true", help="Leave the page cache as the run before left it.")
    parser.add_argument("--scratch", type=Path, help="Disk to work on; the system's temporary folder by default.")
    parser.add_argument("--markdown", help="File to write the tables to.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        tables = compare(args.data.resolve(), args.layers, args.rounds, not args.warm, Path(scratch))
    publish([machine(["torch", "transformers", "safetensors", "sentencepiece"]), *tables], args.markdown)


if __name__ == "__main__":
    main()
