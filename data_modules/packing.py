"""Documents in, full rows out.

Rows are cut from one endless stream of documents, so no token of a training row is padding and
only the tail of the stream (less than a row) is dropped. The price: a document may be split over
two rows. Documents do not see each other: positions restart at each, from which `transformers`
builds the attention mask, and the first token of each is not learnt, since nothing predicts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data_modules.token_store import TokenStore
from glmja.batch import IGNORE_INDEX, Batch


class PackedRows(Dataset[Batch]):
    """Rows of some documents of a store, each a pure function of its number.

    Args:
        store: The tokens.
        documents: Which documents, in the order in which they are laid out.
        row_len: Tokens a row.
        keep_tail: Whether to fill the last, incomplete row up with padding instead of dropping it.
    """

    def __init__(self, store: TokenStore, documents: NDArray[np.int64], row_len: int, keep_tail: bool) -> None:
        """Lays the documents out."""
        self.store, self.documents, self.row_len = store, documents, row_len
        self.ends = np.cumsum(store.lengths[documents])
        num_tokens = int(self.ends[-1]) if len(documents) else 0
        self.num_rows = -(-num_tokens // row_len) if keep_tail else num_tokens // row_len
        self.num_dropped = max(0, num_tokens - self.num_rows * row_len)

    def __len__(self) -> int:
        """The number of rows."""
        return self.num_rows

    def __getitem__(self, row: int) -> Batch:
        """A row, its tensors (T,)."""
        return pack(self._fragments(row * self.row_len), self.row_len)

    def _fragments(self, begin: int) -> list[NDArray[np.uint32]]:
        """The parts of documents in the row that begins at a token of the stream."""
        fragments, end = [], begin + self.row_len
        for i in range(int(np.searchsorted(self.ends, begin, side="right")), len(self.documents)):
            first = int(self.store.starts[self.documents[i]])
            length = int(self.store.lengths[self.documents[i]])
            shift = int(self.ends[i]) - length  # where the document starts in the stream
            if shift >= end:
                break
            skipped = max(0, begin - shift)
            fragments.append(self.store.tokens[first + skipped : first + min(length, end - shift)])
        return fragments


def pack(fragments: Sequence[NDArray[np.uint32]], row_len: int) -> Batch:
    """Joins parts of documents to a row; what they do not fill is padding.

    Args:
        fragments: The ids of each part.
        row_len: Tokens of the row; at least those of the fragments.
    """
    input_ids = torch.zeros(row_len, dtype=torch.int64)
    labels = torch.full((row_len,), IGNORE_INDEX)
    position_ids = torch.zeros(row_len, dtype=torch.int64)
    begin = 0
    for ids in fragments:
        end = begin + len(ids)
        input_ids[begin:end] = torch.from_numpy(ids.astype(np.int64))
        labels[begin + 1 : end] = input_ids[begin + 1 : end]
        position_ids[begin:end] = torch.arange(len(ids))
        begin = end
    position_ids[begin:] = torch.arange(row_len - begin)
    return Batch(input_ids=input_ids, labels=labels, position_ids=position_ids)


class RunRows(Dataset[Batch]):
    """The rows of a whole run, over all sources and epochs; row i is a pure function of seed and i.

    In each epoch every source lays its documents out in a new order, and rows of all sources alternate
    so that every part of the epoch has their mix.
    """

    def __init__(
        self, stores: Sequence[TokenStore], documents: Sequence[NDArray[np.int64]], row_len: int, seed: int
    ) -> None:
        """Lays the first epoch out.

        Args:
            stores: A store for each source.
            documents: Of each store, those to use.
            row_len: Tokens a row.
            seed: Of the orders.
        """
        self.stores, self.documents, self.row_len, self.seed = stores, documents, row_len, seed
        self._epoch, self._sources = 0, self._lay_out(0)
        # (source, row), sorted by how far into its source a row stands
        places = [((row + 0.5) / len(rows), i, row) for i, rows in enumerate(self._sources) for row in range(len(rows))]
        self.order = [(source, row) for _, source, row in sorted(places)]

    @property
    def rows_per_source(self) -> list[int]:
        """Rows an epoch of each source."""
        return [len(rows) for rows in self._sources]

    @property
    def num_dropped(self) -> int:
        """Tokens an epoch that do not fill a row."""
        return sum(rows.num_dropped for rows in self._sources)

    def __len__(self) -> int:
        """Rows an epoch."""
        return len(self.order)

    def __getitem__(self, i: int) -> Batch:
        """Row i of the run, its tensors (T,)."""
        epoch, place = divmod(i, len(self))
        if epoch != self._epoch:
            self._epoch, self._sources = epoch, self._lay_out(epoch)
        source, row = self.order[place]
        return self._sources[source][row]

    def _lay_out(self, epoch: int) -> list[PackedRows]:
        orders = [
            np.random.default_rng([self.seed, epoch, i]).permutation(documents)
            for i, documents in enumerate(self.documents)
        ]
        return [
            PackedRows(store, order, self.row_len, keep_tail=False)
            for store, order in zip(self.stores, orders, strict=True)
        ]


class EpochSampler(Sampler[int]):
    """The numbers of an epoch's rows within the run; Lightning calls `set_epoch`."""

    def __init__(self, num_rows: int) -> None:
        """For epochs of so many rows."""
        self.num_rows, self.epoch = num_rows, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Rows an epoch."""
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        """The rows in order."""
        return iter(range(self.epoch * self.num_rows, (self.epoch + 1) * self.num_rows))


def collate(rows: Sequence[Batch]) -> Batch:
    """Stacks rows of one length: (T,) each to (B, T)."""

    def stack(key: str) -> Tensor:
        return torch.stack([row[key] for row in rows])  # type: ignore[literal-required]

    return Batch(input_ids=stack("input_ids"), labels=stack("labels"), position_ids=stack("position_ids"))
