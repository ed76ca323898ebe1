"""Counts of the tokens that a run reads from each of its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from glmja.text.markdown import markdown_row
from glmja.text.terminal import make_table

Count = str | int | float


@dataclass(frozen=True)
class Ledger:
    """A table of counts with a row for each source.

    Attributes:
        title: Title of the table.
        entries: Counts of each source. All have the same keys, `source` first; counts are int and shares are float.
        facts: Counts of the whole run.
    """

    title: str
    entries: Sequence[Mapping[str, Count]]
    facts: Mapping[str, int | float]

    def as_dict(self) -> dict[str, list[dict[str, Count]] | dict[str, int | float]]:
        """Returns the content of `ledger.json`."""
        return {"sources": [dict(entry) for entry in self.entries], "run": dict(self.facts)}

    def table(self) -> Table:
        """Returns a table for the terminal with a column for each source."""
        headings = ["", *(_shown(entry["source"]) for entry in self.entries)]
        rows = [(key, *(_shown(entry[key]) for entry in self.entries)) for key in list(self.entries[0])[1:]]
        return make_table(headings, rows, title=self.title, align="right")

    def markdown(self) -> str:
        """Returns a table for TensorBoard with a column for each source."""
        rows = [[key, *(_shown(entry[key]) for entry in self.entries)] for key in self.entries[0]]
        lines = [rows[0], ["---", *["--:"] * len(self.entries)], *rows[1:]]
        return "\n".join(map(markdown_row, lines)) + f"\n\n{self.summary()}"

    def summary(self) -> str:
        """Returns the counts of the whole run in one line."""
        return " · ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in self.facts.items())


def _shown(value: Count) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
