"""The documents of a source as an endless stream of tokens.

The stream passes over the documents again and again, each time in another order. Its content between two positions is a
pure function of the positions and the seed, so a run can be resumed anywhere without reading what came before.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class DocumentStream:
    """Maps positions of the stream to documents.

    Attributes:
        tokens_per_pass: Number of tokens of all documents together.
    """

    def __init__(
        self, lengths: NDArray[np.int64], documents: NDArray[np.int64], seed: tuple[int, ...] | None = None
    ) -> None:
        """Creates the stream; the order of a pass is computed at first use.

        Args:
            lengths: Number of tokens of every document of the store, at least 1 each, (documents of the store,).
            documents: Numbers of the documents in the stream, (documents,).
            seed: Random seed of the orders; None keeps the order of `documents`.
        """
        self.lengths, self.documents, self.seed = lengths, documents, seed
        self.tokens_per_pass = int(lengths[documents].sum())
        self._pass = lru_cache(maxsize=2)(self._lay_out)  # a row may reach from one pass into the next

    def _lay_out(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the documents of a pass in order, and the position in the pass at which each ends."""
        order = self.documents
        if self.seed is not None:
            order = np.random.default_rng([*self.seed, number]).permutation(order)
        return order, np.cumsum(self.lengths[order])

    def parts(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Returns the parts of documents between two positions, each as (document, first token, end)."""
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

    def num_parts(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts the parts that `parts` returns, for many stretches at once.

        Args:
            begins: First position of each stretch, (stretches,).
            ends: Position after the last one of each stretch, larger than the first, (stretches,).

        Returns:
            The number of parts of each stretch, (stretches,).
        """
        return self._indices(ends - 1) - self._indices(begins) + 1

    def _indices(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many documents of the stream end before or at each position, over all passes."""
        passes, offsets = np.divmod(positions, self.tokens_per_pass)
        indices = passes * len(self.documents)
        for number in np.unique(passes):
            _, ends = self._pass(int(number))
            indices[passes == number] += np.searchsorted(ends, offsets[passes == number], side="right")
        return indices

    def starting_in(self, begin: int, end: int) -> NDArray[np.int64]:
        """Returns the documents whose first token lies between two positions, (n,); adjacent stretches share none."""
        found = [np.zeros(0, dtype=np.int64)]
        while begin < end:
            number, offset = divmod(begin, self.tokens_per_pass)
            order, ends = self._pass(number)
            stop = min(offset + end - begin, self.tokens_per_pass)
            starts = ends - self.lengths[order]
            found.append(order[slice(*np.searchsorted(starts, [offset, stop]))])
            begin += stop - offset
        return np.concatenate(found)
