"""Documents in, full rows out.

Rows are cut from an endless stream of each source's documents, so no token of a training row is padding and only the
end of the last pass over a source stays unused, less than a row where passes are whole. The price: a document may be
split over two rows. Sources alternate so that every stretch of the run has their mix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.rows import Fragment, Row, Store, pack


class PackedRows:
    """Rows cut from streams; row i is a pure function of the seed and i.

    Attributes:
        sources: Which stream each row is cut from, (rows,).
        numbers: Which row of that stream it is, (rows,).
    """

    def __init__(
        self,
        stores: Sequence[Store],
        streams: Sequence[DocumentStream],
        order: tuple[NDArray[np.int64], NDArray[np.int64]],
        row_len: int,
        isolate: bool = True,
        num_tokens: Sequence[int] | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            stores: The tokens of each source.
            streams: Their orders.
            order: `sources` and `numbers`, as `interleave` gives them.
            row_len: Tokens a row.
            isolate: As `pack`.
            num_tokens: Where each stream ends, if a last row may be shorter.
        """
        self.stores, self.streams, self.row_len, self.isolate = stores, streams, row_len, isolate
        self.sources, self.numbers = order
        self.num_tokens = num_tokens

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.sources)

    def __getitem__(self, i: int) -> Row:
        """Row i."""
        source, begin, end = self._place(i)
        store, parts = self.stores[source], self.streams[source].parts(begin, end)
        starts = [store.starts[document] for document, _, _ in parts]
        fragments = [Fragment(store.tokens[s + a : s + b]) for s, (_, a, b) in zip(starts, parts, strict=True)]
        return pack(fragments, self.isolate)

    def length(self, i: int) -> int:
        """Tokens of row i."""
        _, begin, end = self._place(i)
        return end - begin

    def num_target_tokens(self, i: int) -> int:
        """All of the row's tokens but the first of each part."""
        source, begin, end = self._place(i)
        return end - begin - (self.streams[source].num_parts(begin, end) if self.isolate else 1)

    def _place(self, i: int) -> tuple[int, int, int]:
        source, begin = int(self.sources[i]), int(self.numbers[i]) * self.row_len
        end = begin + self.row_len
        return source, begin, end if self.num_tokens is None else min(end, self.num_tokens[source])


def interleave(shares: Sequence[float], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lets sources alternate, each as evenly as it can be, so that every stretch of rows has their mix.

    Args:
        shares: Of the rows; relative to each other.
        num_rows: Rows in all.

    Returns:
        The source of each row, and how many rows of that source came before it. A longer run begins with the rows of
        a shorter one.
    """
    weights = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    counts = np.ceil(weights * num_rows).astype(np.int64) + 1
    sources = np.repeat(np.arange(len(weights)), counts)
    numbers = np.concatenate([np.arange(count) for count in counts])
    # the k-th row of a source is due when k + 1/2 of its share has passed
    first = np.lexsort((sources, (numbers + 0.5) / weights[sources]))[:num_rows]
    return sources[first], numbers[first]
