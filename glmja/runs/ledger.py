"""Where each token of a run comes from and goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Ledger:
    """A table of counts, a row for each source.

    Attributes:
        title: What is counted.
        entries: By source; each has the same keys, `source` first, counts as int and shares as float.
        facts: Counts of the whole run.
    """

    title: str
    entries: Sequence[Mapping[str, str | int | float]]
    facts: Mapping[str, int | float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"sources": [dict(entry) for entry in self.entries], "run": dict(self.facts)}

    def table(self) -> Table:
        """For the terminal: a column for each source."""
        table = Table("", title=self.title)
        for entry in self.entries:
            table.add_column(_shown(entry["source"]), justify="right")
        for key in list(self.entries[0])[1:]:
            table.add_row(key, *(_shown(entry[key]) for entry in self.entries))
        return table

    def markdown(self) -> str:
        """For TensorBoard: a column for each source."""
        rows = [[key, *(_shown(entry[key]) for entry in self.entries)] for key in self.entries[0]]
        lines = [rows[0], ["---", *["--:"] * len(self.entries)], *rows[1:]]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + f"\n\n{self.summary()}"

    def summary(self) -> str:
        """The counts of the whole run in a line."""
        return " · ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in self.facts.items())


def _shown(value: str | int | float) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
