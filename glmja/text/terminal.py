"""Lines and tables for the terminal in which every string is text.

rich reads strings as markup: `[v2]` is a style, `[/x]` without a style before it an error, and `:car:` an emoji. Names
of folders, sources and languages may hold all of these, so no other module gives strings to rich.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glmja.text.printable import printable


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]] = (),
    *,
    title: str | None = None,
    align: str = "left",
    show_lines: bool = False,
    frame: bool = True,
) -> Table:
    """Returns a table of texts.

    Args:
        headings: Heading of each column.
        rows: Cells of each row.
        title: Title of the table.
        align: Alignment of all columns but the first, `left` or `right`.
        show_lines: Draw lines between rows, and show long texts without spaces in full, in several lines.
        frame: Draw headings and a frame.
    """
    table = Table(
        title=None if title is None else Text(printable(title), style="table.title"),
        show_lines=show_lines,
        show_header=frame,
        box=HEAVY_HEAD if frame else None,
    )
    for number, heading in enumerate(headings):
        justify: Literal["left", "right"] = "right" if number and align == "right" else "left"
        table.add_column(as_text(heading), justify=justify, overflow="fold" if show_lines else "ellipsis")
    for row in rows:
        table.add_row(*map(as_text, row))
    return table


def show(*parts: str | Text | Table, style: str = "") -> None:
    """Prints lines, which the terminal folds, and tables.

    Args:
        parts: What to print, each on a line of its own.
        style: Style of the strings, such as `bold`.
    """
    console = _Console()
    for part in parts:
        if isinstance(part, Table):
            console.print(part)
        else:
            console.print(as_text(part, style), soft_wrap=True)


class _Console(Console):
    """Leaves a closed output to `glmja.cli.closed_output`; rich would end the program with exit code 1."""

    def on_broken_pipe(self) -> None:
        error = sys.exception()
        assert error is not None
        raise error


def as_text(text: str | Text, style: str = "") -> Text:
    """Returns a string as it is, without control characters; formatted text stays."""
    return text if isinstance(text, Text) else Text(printable(text), style=style)
