"""Measures how long each command takes to print its help: `python -m benchmarks.commands.startup [CHECKOUT ...]`.

Several checkouts (as made by `git worktree add /tmp/before REVISION`) are measured in turns. Seconds are processor
time, user and system together, which depends little on other load. The large libraries that it imports are listed.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.arguments import ROOT, benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate

LIBRARIES = ("torch", "transformers", "lightning", "peft", "datasets", "matplotlib")
# printed to stderr when the process exits, so that it also works if the help ends it
_REPORT = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr)); "


def commands(root: Path) -> list[str]:
    """Returns the modules below `glmja/` that can be run."""
    files = sorted((root / "glmja").glob("*.py"))
    return [file.stem for file in files if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]


def help_seconds(root: Path, command: str) -> tuple[float, list[str]]:
    """Runs `--help` of a command; returns seconds of the processor, and the large libraries that it imported."""
    program = f"{_REPORT}import runpy; sys.argv[1:] = ['--help']; runpy.run_module('glmja.{command}', {{}}, '__main__')"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"glmja.{command} --help failed in {root}: {done.stderr[-500:]}")
    loaded = done.stderr.rpartition("LOADED")[2].split()
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, [name for name in LIBRARIES if name in loaded]


def compare(roots: Sequence[Path], num_rounds: int) -> Figures:
    """Measures all commands of all checkouts in turns."""
    headings = [column for root in roots for column in (f"{root}: CPU s", "imports")]
    table = Figures("--help of each command, median CPU seconds", ["command", *headings])
    for command in sorted({name for root in roots for name in commands(root)}):
        runs: dict[str, list[tuple[float, list[str]]]] = {str(r): [] for r in roots if command in commands(r)}
        for root in alternate(runs, num_rounds):
            runs[root].append(help_seconds(Path(root), command))
        cells = [command]
        for root in map(str, roots):
            found = runs.get(root)
            median = f"{statistics.median(seconds for seconds, _ in found):.2f}" if found else "–"
            cells += [median, (", ".join(found[0][1]) if found else "") or "–"]
        table.rows.append(cells)
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[ROOT], help="Root folders; this one by default.")
    options = parser.parse_args(args)
    table = compare([root.resolve() for root in options.checkouts], options.rounds)
    publish([machine(["jsonargparse"]), table], options.markdown)


if __name__ == "__main__":
    main()
