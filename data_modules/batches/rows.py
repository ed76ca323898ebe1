"""Rows: parts of documents side by side, and rows of several lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX, Batch, pad_sequences


class Fragment(NamedTuple):
    """A part of a document: its ids, and which of them are to be learnt (all if None)."""

    ids: NDArray[np.uint32]
    learnt: NDArray[np.bool_] | None = None


class Row(NamedTuple):
    """T tokens, without padding."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]


class Store(Protocol):
    """Documents as ids, one after the other."""

    tokens: NDArray[np.uint32]
    starts: NDArray[np.int64]


class Rows(Protocol):
    """Rows by number; each is a pure function of its number."""

    def __getitem__(self, i: int) -> Row:
        """Row i."""
        ...

    def length(self, i: int) -> int:
        """Tokens of row i, found without reading it."""
        ...

    def num_target_tokens(self, i: int) -> int:
        """Learnt tokens of row i, found without reading it."""
        ...


def pack(fragments: Sequence[Fragment], isolate: bool = True) -> Row:
    """Joins parts of documents to a row.

    Args:
        fragments: The parts.
        isolate: Whether positions restart at each part, from which `transformers` builds an attention mask that keeps
            documents apart; the first token of each is not learnt then, since nothing predicts it.
    """
    input_ids = np.concatenate([fragment.ids for fragment in fragments]).astype(np.int64)
    learnt = [np.ones(len(f.ids), np.bool_) if f.learnt is None else f.learnt for f in fragments]
    labels = np.where(np.concatenate(learnt), input_ids, IGNORE_INDEX)
    lengths = [len(fragment.ids) for fragment in fragments]
    if not isolate:
        lengths = [len(input_ids)]
    labels[np.cumsum([0, *lengths[:-1]])] = IGNORE_INDEX
    return Row(input_ids, labels, np.concatenate([np.arange(length) for length in lengths]))


def collate(rows: Sequence[Row], multiple: int = 1) -> Batch:
    """Pads rows on the right to the longest of them.

    No attention mask is needed: under a causal model no token sees the padding after it. Positions go on through the
    padding, so that it does not look like another document, for which a mask would be built.

    Args:
        rows: The rows.
        multiple: Rounds the width up; tensor cores like multiples of 8.

    Returns:
        The batch; `mean_target_tokens` is its own count.
    """
    lengths = [len(row.input_ids) for row in rows]
    input_ids = pad_sequences([row.input_ids for row in rows], 0, multiple=multiple)
    labels = pad_sequences([row.labels for row in rows], IGNORE_INDEX, multiple=multiple)
    position_ids = pad_sequences([row.position_ids for row in rows], 0, multiple=multiple)
    for positions_T, row, length in zip(position_ids, rows, lengths, strict=True):
        positions_T[length:] = torch.arange(len(positions_T) - length) + row.position_ids[-1] + 1
    learnt = torch.tensor(float(count_learnt(labels)))
    return Batch(
        input_ids=input_ids,
        labels=labels,
        position_ids=position_ids,
        lengths=torch.tensor(lengths),
        mean_target_tokens=learnt,
    )


def count_learnt(labels_BT: Tensor) -> int:
    """Tokens that the loss is summed over."""
    return int((labels_BT[:, 1:] != IGNORE_INDEX).sum())
