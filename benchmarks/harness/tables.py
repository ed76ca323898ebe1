"""Tables of measurements, printed and written as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from glmja.text.terminal import make_table, show

_GIB = 1 << 30


@dataclass
class Figures:
    """A table of measurements. The first column names the row.

    Attributes:
        title: Title of the table.
        headings: One heading per column.
        rows: Formatted cells.
        notes: Lines printed below the table.
    """

    title: str
    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Prints the table."""
        show(make_table(self.headings, self.rows, title=self.title, align="right"), *self.notes)

    def markdown(self) -> str:
        """Formats the table with its title and notes as Markdown."""
        notes = ["", *self.notes] if self.notes else []
        return "\n".join([f"**{self.title}**", "", markdown_table(self.headings, self.rows), *notes]) + "\n"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table whose first column is aligned left, and the others right."""
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def publish(tables: list[Figures], markdown: Path | None) -> None:
    """Prints the tables, and writes them to a Markdown file if one is given."""
    for table in tables:
        table.show()
    if markdown:
        markdown.write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")


def machine(packages: list[str]) -> Figures:
    """Describes the machine and the versions of the packages."""
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
