"""Measures how many tokens learned pieces save, and how many pieces are worth their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

BLOCK = 1024  # pieces; gains are compared over as many
FEW_USES = 10


@dataclass(frozen=True)
class LearningCurve:
    """Tokens that learned pieces save, exact on the sample of the corpus that they were learned from.

    Attributes:
        num_characters: Characters of the sample.
        num_tokens: Tokens of the sample in the base's vocabulary.
        gains: Tokens that each piece saves, by rank, and up to `BLOCK` pieces more than were selected.
        num_selected: Number of pieces that were selected.
        num_rare: Selected pieces that occur fewer than `FEW_USES` times as tokens of the sample: most of them are
            steps to longer pieces.
    """

    num_characters: int
    num_tokens: int
    gains: Sequence[int]
    num_selected: int
    num_rare: int

    def rows(self) -> list[dict[str, float | int | None]]:
        """Returns a row for each `BLOCK` pieces and one for the selected ones.

        Each has `pieces`, `tokens_per_character`, and `gain_of_next`: the share of these tokens that the next `BLOCK`
        pieces save; None if the corpus has no more.
        """
        left = [self.num_tokens - saved for saved in accumulate(self.gains, initial=0)]
        rows: list[dict[str, float | int | None]] = []
        for pieces in sorted({*range(0, self.num_selected, BLOCK), self.num_selected}):
            end = min(pieces + BLOCK, len(self.gains))
            rows.append(
                {
                    "pieces": pieces,
                    "tokens_per_character": left[pieces] / max(1, self.num_characters),
                    "gain_of_next": 1 - left[end] / max(1, left[pieces]) if end > pieces else None,
                }
            )
        return rows

    def as_json(self) -> dict[str, object]:
        """Returns the counts and the rows."""
        counts = {"characters": self.num_characters, "tokens": self.num_tokens, "pieces_used_rarely": self.num_rare}
        return {**counts, "rows": self.rows()}
