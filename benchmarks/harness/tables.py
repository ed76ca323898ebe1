"""Tables of figures, shown on the screen and written as Markdown."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

_GIB = 1 << 30


@dataclass
class Figures:
    """One table; the first column names what a row is about.

    Attributes:
        title: Of the table.
        headings: One a column.
        rows: Cells as they are to be read.
        notes: Lines below the table.
    """

    title: str
    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Prints the table."""
        table = Table(title=self.title)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table, *self.notes, sep="\n")

    def markdown(self) -> str:
        """The same as a Markdown table."""
        lines = [f"**{self.title}**", "", _line(self.headings), _line([":--", *["--:"] * (len(self.headings) - 1)])]
        return "\n".join([*lines, *map(_line, self.rows), *(["", *self.notes] if self.notes else [])]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def publish(tables: list[Figures], markdown: str | None) -> None:
    """Prints the tables, and writes them to a file if its name is given."""
    console = Console()
    for table in tables:
        table.show(console)
    if markdown:
        Path(markdown).write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")


def machine(packages: list[str]) -> Figures:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    rows = [
        ["processor", f"{model}, {os.cpu_count()} cores"],
        ["memory", f"{memory:.1f} GiB"],
        ["python", platform.python_version()],
        *([package, version(package)] for package in packages),
    ]
    return Figures("Machine", ["", ""], rows)


def data_folder() -> str:
    """Where the texts and models for measurements lie, unless `--data` says otherwise."""
    return os.environ.get("GLMJA_DATA", "../shared/data")
