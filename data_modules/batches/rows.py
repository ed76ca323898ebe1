"""Rows: parts of documents joined to sequences, and sequences of several lengths as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX, Batch, document_offsets, pad_sequences


class Fragment(NamedTuple):
    """A part of a document.

    Attributes:
        ids: Token ids, (T,).
        loss_mask: Which of them are target tokens, (T,); all if None.
    """

    ids: NDArray[np.uint32]
    loss_mask: NDArray[np.bool_] | None = None


class Row(NamedTuple):
    """A sequence of T tokens without padding.

    Attributes:
        input_ids: Token ids, (T,).
        labels: Token ids where they are target tokens, `IGNORE_INDEX` elsewhere, (T,); not shifted.
        position_ids: Positions, (T,) or (2, T); see `GLMTokenizer.positions`.
        source: Number of the source that all tokens are from; None if they may be from several.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    source: int | None = None


class TokenArrays(Protocol):
    """Documents as token ids.

    Attributes:
        tokens: Ids of all documents, one after the other.
        starts: Offset of each document in `tokens`, and the end.
    """

    tokens: NDArray[np.uint32]
    starts: NDArray[np.int64]


class Rows(Protocol):
    """Rows by number; each is a pure function of its number."""

    def __getitem__(self, i: int) -> Row:
        """Returns row i."""
        ...

    def length(self, i: int) -> int:
        """Returns the number of tokens of row i without reading it."""
        ...

    def num_target_tokens(self, numbers: NDArray[np.int64]) -> int:
        """Returns the number of target tokens of some rows together, without reading them."""
        ...


Positions = Callable[[NDArray[np.int64]], NDArray[np.int64]]  # of the ids of a document


def pack(
    fragments: Sequence[Fragment],
    isolate: bool = True,
    positions: Positions | None = None,
    source: int | None = None,
) -> Row:
    """Joins parts of documents to a row.

    Args:
        fragments: The parts.
        positions: Returns the positions of the ids of each part; 0, 1, … if None.
        isolate: Whether positions restart at each part. From these, `transformers` builds an attention mask that
            isolates documents. The first token of each part is no target token then, since nothing predicts it.
        source: Number of the source that all parts are from, if they are from one.
    """
    input_ids = np.concatenate([fragment.ids for fragment in fragments]).astype(np.int64)
    loss_mask = [np.ones(len(f.ids), np.bool_) if f.loss_mask is None else f.loss_mask for f in fragments]
    labels = np.where(np.concatenate(loss_mask), input_ids, IGNORE_INDEX)
    lengths = [len(fragment.ids) for fragment in fragments]
    if not isolate:
        lengths = [len(input_ids)]
    labels[np.cumsum([0, *lengths[:-1]])] = IGNORE_INDEX
    parts = np.split(input_ids, np.cumsum(lengths)[:-1])
    position_ids = [np.arange(len(part)) if positions is None else positions(part) for part in parts]
    return Row(input_ids, labels, np.concatenate(position_ids, axis=-1), source)


def collate(rows: Sequence[Row], multiple: int = 1) -> Batch:
    """Pads rows on the right to the length of the longest.

    No attention mask is needed: in a causal model, no token sees the padding after it. Positions continue through the
    padding, so that it does not look like another document, for which a mask would be built.

    Args:
        rows: The rows.
        multiple: The width is rounded up to a multiple of this number; tensor cores prefer multiples of 8.

    Returns:
        The batch; `mean_target_tokens` is its own number of target tokens.
    """
    lengths = [len(row.input_ids) for row in rows]
    input_ids = pad_sequences([row.input_ids for row in rows], 0, multiple=multiple)
    labels = pad_sequences([row.labels for row in rows], IGNORE_INDEX, multiple=multiple)
    position_ids = torch.stack([_padded(row.position_ids, input_ids.shape[1]) for row in rows])
    batch = Batch(
        input_ids=input_ids,
        labels=labels,
        position_ids=position_ids,
        document_offsets=document_offsets(position_ids),
        lengths=torch.tensor(lengths),
        mean_target_tokens=torch.tensor(float(count_target_tokens(labels))),
    )
    sources = [row.source for row in rows if row.source is not None]
    if len(sources) == len(rows):
        batch["sources"] = torch.tensor(sources)
    return batch


def _padded(position_ids: NDArray[np.int64], width: int) -> Tensor:
    """Returns positions that go on through the padding, (T,) or (2, T); of two, the second goes on."""
    step = np.array(1) if position_ids.ndim == 1 else np.array([[0], [1]])
    after = position_ids[..., -1:] + step * np.arange(1, width - position_ids.shape[-1] + 1)
    return torch.from_numpy(np.concatenate([position_ids, after], axis=-1).astype(np.int64))


def count_target_tokens(labels_BT: Tensor) -> int:
    """Returns the number of tokens that the loss is summed over."""
    return int((labels_BT[:, 1:] != IGNORE_INDEX).sum())
