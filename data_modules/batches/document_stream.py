"""The documents of a source as one stream of tokens without an end.

Pass after pass over the documents, each pass in an order of its own. What lies between two places of the stream is a
pure function of them and of the seed, so that a run can be resumed anywhere without reading what came before.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class DocumentStream:
    """Documents by their places in the stream.

    Attributes:
        tokens_per_pass: Tokens of all documents together.
    """

    def __init__(
        self, lengths: NDArray[np.int64], documents: NDArray[np.int64], seed: tuple[int, ...] | None = None
    ) -> None:
        """Computes no pass yet.

        Args:
            lengths: Tokens of every document of the store, each at least 1.
            documents: Those in the stream.
            seed: Of the orders; None keeps the order of `documents`.
        """
        self.lengths, self.documents, self.seed = lengths, documents, seed
        self.tokens_per_pass = int(lengths[documents].sum())
        self._pass = lru_cache(maxsize=2)(self._lay_out)  # a row may lie across two passes

    def _lay_out(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Documents of a pass in order, and where each ends in it."""
        order = self.documents
        if self.seed is not None:
            order = np.random.default_rng([*self.seed, number]).permutation(order)
        return order, np.cumsum(self.lengths[order])

    def parts(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """The parts of documents between two places of the stream: (document, first token, end)."""
        parts = []
        while begin < end:
            number, offset = divmod(begin, self.tokens_per_pass)
            order, ends = self._pass(number)
            stop = min(offset + end - begin, self.tokens_per_pass)
            for i in range(int(np.searchsorted(ends, offset, side="right")), len(order)):
                start = int(ends[i] - self.lengths[order[i]])
                if start >= stop:
                    break
                parts.append((int(order[i]), max(0, offset - start), int(min(ends[i], stop) - start)))
            begin += stop - offset
        return parts

    def num_parts(self, begin: int, end: int) -> int:
        """As many as `parts` returns."""
        count = 0
        while begin < end:
            number, offset = divmod(begin, self.tokens_per_pass)
            _, ends = self._pass(number)
            stop = min(offset + end - begin, self.tokens_per_pass)
            first, last = np.searchsorted(ends, [offset, stop - 1], side="right")
            count += int(last - first) + 1
            begin += stop - offset
        return count

    def starting_in(self, begin: int, end: int) -> NDArray[np.int64]:
        """The documents whose first token lies between two places; adjoining stretches share none."""
        found = [np.zeros(0, dtype=np.int64)]
        while begin < end:
            number, offset = divmod(begin, self.tokens_per_pass)
            order, ends = self._pass(number)
            stop = min(offset + end - begin, self.tokens_per_pass)
            starts = ends - self.lengths[order]
            found.append(order[slice(*np.searchsorted(starts, [offset, stop]))])
            begin += stop - offset
        return np.concatenate(found)
