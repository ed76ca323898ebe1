"""Packs documents into full rows.

Rows are cut from an endless stream of each source's documents. No token of a training row is padding, and only the end
of the last pass over a source remains unused, less than a row if passes are complete. The price: a document may be
split across two rows. Sources alternate so that every stretch of the run has their mix.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.rows import Fragment, Row, TokenArrays, pack


class PackedRows:
    """Rows cut from streams; row i is a pure function of the seed and i.

    Attributes:
        sources: Number of the stream that each row is cut from, (rows,).
        numbers: Number of the row within that stream, (rows,).
    """

    def __init__(
        self,
        stores: Sequence[TokenArrays],
        streams: Sequence[DocumentStream],
        order: tuple[NDArray[np.int64], NDArray[np.int64]],
        row_len: int,
        isolate: bool = True,
        num_tokens: Sequence[int] | None = None,
        first_source: int = 0,
    ) -> None:
        """Creates the rows; their tokens are read on access.

        Args:
            stores: Tokens of each source.
            streams: Stream of each source.
            order: `sources` and `numbers`, as `interleave` returns them.
            row_len: Number of tokens in a row.
            isolate: Whether documents of a row do not attend to each other; see `pack`.
            num_tokens: Length of each stream, if its last row may be shorter.
            first_source: Number of the first of these sources among those of the run; each row carries its number.
        """
        self.stores, self.streams, self.row_len, self.isolate = stores, streams, row_len, isolate
        self.sources, self.numbers = order
        self.num_tokens, self.first_source = num_tokens, first_source

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.sources)

    def __getitem__(self, i: int) -> Row:
        """Returns row i."""
        source = int(self.sources[i])
        (begin,), (end,) = self._positions(np.array([i]))
        store, parts = self.stores[source], self.streams[source].parts(int(begin), int(end))
        starts = [store.starts[document] for document, _, _ in parts]
        fragments = [Fragment(store.tokens[s + a : s + b]) for s, (_, a, b) in zip(starts, parts, strict=True)]
        return pack(fragments, self.isolate, source=self.first_source + source)

    def length(self, i: int) -> int:
        """Returns the number of tokens of row i."""
        (begin,), (end,) = self._positions(np.array([i]))
        return int(end - begin)

    def num_target_tokens(self, numbers: NDArray[np.int64]) -> int:
        """Returns the number of target tokens of some rows: all tokens but the first of each part of a document."""
        begins, ends = self._positions(numbers)
        total = int((ends - begins).sum())
        if not self.isolate:
            return total - len(numbers)
        sources = self.sources[numbers]
        for source in np.unique(sources):
            of_source = sources == source
            total -= int(self.streams[source].num_parts(begins[of_source], ends[of_source]).sum())
        return total

    def _positions(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns where rows begin and end in their streams."""
        begins = self.numbers[numbers] * self.row_len
        ends = begins + self.row_len
        if self.num_tokens is not None:
            ends = np.minimum(ends, np.array(self.num_tokens)[self.sources[numbers]])
        return begins, ends


def interleave(shares: Sequence[float], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Alternates sources as evenly as possible, so that every stretch of rows has their mix.

    Args:
        shares: Shares of the rows, relative to each other.
        num_rows: Number of rows.

    Returns:
        The source of each row, and how many rows of that source came before it, (num_rows,) int64 each. A longer run
        begins with the rows of a shorter one.
    """
    weights = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    counts = np.ceil(weights * num_rows).astype(np.int64) + 1
    sources = np.repeat(np.arange(len(weights)), counts)
    numbers = np.concatenate([np.arange(count) for count in counts])
    # the k-th row of a source is due when k + 1/2 of its share has passed
    first = np.lexsort((sources, (numbers + 0.5) / weights[sources]))[:num_rows]
    return sources[first], numbers[first]


def interleave_apart(
    shares: Sequence[float], apart: Collection[int], num_rows: int, unit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Alternates sources as `interleave`, in units of rows that are all from some of the sources or all from others.

    If the rows of some sources cost more than others, and a unit is what all ranks compute at the same time, no rank
    waits for another. If each rank had these rows at random, 1 − (1 − share)^ranks of the micro-batches would take as
    long as one of them: 64 % on 8 ranks at a share of 12 %.

    Args:
        shares: Shares of the rows, relative to each other.
        apart: Numbers of the sources whose rows share units with each other only.
        num_rows: Number of rows, a multiple of `unit`.
        unit: Number of rows in a unit.

    Returns:
        As `interleave`, (num_rows,) int64 each. A longer run begins with the rows of a shorter one; within a run, the
        share of `apart` is exact up to a unit.
    """
    assert num_rows % unit == 0
    groups = [g for g in ([i for i in range(len(shares)) if (i in apart) is own] for own in (False, True)) if g]
    of_unit, _ = interleave([sum(shares[i] for i in group) for group in groups], num_rows // unit)
    of_row = np.repeat(of_unit, unit)
    sources, numbers = np.empty((2, num_rows), dtype=np.int64)
    for number, group in enumerate(groups):
        mine = of_row == number
        within, numbers[mine] = interleave([shares[i] for i in group], int(mine.sum()))
        sources[mine] = np.array(group)[within]
    return sources, numbers
