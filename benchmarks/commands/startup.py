"""Measures the start of commands, with --help and a wrong flag: `python -m benchmarks.commands.startup [CHECKOUT …]`.

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
CASES = {"--help": 0, "--misspeled=1": 2}  # argument → exit code
# printed to stderr when the process exits, so that it also works if the help ends it
_REPORT = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr)); "


def commands(root: Path) -> list[str]:
    """Returns the modules below `glmja/` that can be run."""
    files = sorted((root / "glmja").glob("*.py"))
    modules = [file.stem for file in files if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]
    return modules + [file.parent.name for file in (root / "glmja").glob("*/__main__.py")]


def seconds(root: Path, command: str, argument: str) -> tuple[float, list[str]]:
    """Runs a command with one argument; returns seconds of the processor, and the large libraries that it imported."""
    start = f"import runpy; sys.argv[1:] = [{argument!r}]; runpy.run_module('glmja.{command}', {{}}, '__main__')"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _REPORT + start],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != CASES[argument]:
        raise RuntimeError(f"glmja.{command} {argument} failed in {root}: {done.stderr[-500:]}")
    loaded = done.stderr.rpartition("LOADED")[2].split()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, [name for name in LIBRARIES if name in loaded]


def compare(roots: Sequence[Path], argument: str, num_rounds: int) -> Figures:
    """Measures all commands of all checkouts in turns, with one argument."""
    headings = [column for root in roots for column in (f"{root}: CPU s", "imports")]
    table = Figures(f"{argument} of each command, median CPU seconds", ["command", *headings])
    for command in sorted({name for root in roots for name in commands(root)}):
        runs: dict[str, list[tuple[float, list[str]]]] = {str(r): [] for r in roots if command in commands(r)}
        for root in alternate(runs, num_rounds):
            runs[root].append(seconds(Path(root), command, argument))
        cells = [command]
        for root in map(str, roots):
            found = runs.get(root)
            median = f"{statistics.median(spent for spent, _ in found):.2f}" if found else "–"
            cells += [median, (", ".join(found[0][1]) if found else "") or "–"]
        table.rows.append(cells)
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[ROOT], help="Root folders; this one by default.")
    options = parser.parse_args(args)
    roots = [root.resolve() for root in options.checkouts]
    tables = [compare(roots, argument, options.rounds) for argument in CASES]
    publish([machine(["jsonargparse"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
