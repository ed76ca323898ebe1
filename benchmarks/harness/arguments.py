"""Command-line arguments and folders that the benchmarks share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Returns the folder of texts and models to measure with: `$GLMJA_DATA`, or `shared/data` beside the checkout."""
    return Path(os.environ.get("GLMJA_DATA", ROOT.parent / "shared" / "data"))


def benchmark_parser(description: str | None, *, rounds: int | None = None, data: bool = False,
                     scratch: bool = False) -> argparse.ArgumentParser:  # fmt: skip
    """Makes a parser with the arguments that most benchmarks have.

    Args:
        description: The module's docstring.
        rounds: Default of `--rounds`; without it there is no such argument.
        data: Whether to add `--data`.
        scratch: Whether to add `--scratch`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="Measured rounds. Default: %(default)s.")
    if data:
        parser.add_argument("--data", type=Path, default=data_folder(), help="Folder of texts and models.")
    if scratch:
        parser.add_argument("--scratch", type=Path, help="Folder for temporary files. Default: the system's.")
    parser.add_argument("--markdown", type=Path, help="File to write the tables to, as Markdown.")
    return parser
