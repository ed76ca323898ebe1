"""Counts new embedding rows that equal another row, bit for bit.

Equal rows of the head always have equal logits: greedy decoding takes the lower id, and sampling gives the row double
weight. Equal input rows are read as the same token. Pieces that share both rows cannot be distinguished before
training.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import TensorSource


@dataclass(frozen=True)
class RowCopies:
    """New rows that are not unique.

    Attributes:
        of_old_rows: Number of new rows that equal an old row.
        shared: Number of new rows that equal another new row.
    """

    of_old_rows: int
    shared: int


def count_copies(model: Checkpoint, num_old: int, num_new: int) -> dict[str, RowCopies]:
    """Counts copies among the rows of the `input` embedding, of the `head`, and of `both` together.

    Args:
        model: The weights under the names of the running model; new rows follow the old ones.
        num_old: Number of old rows.
        num_new: Number of new rows.
    """
    inputs, heads = (_digests(model.tensors[name], num_old + num_new) for name in model.architecture.both_embeddings)
    both = [first + second for first, second in zip(inputs, heads, strict=True)]
    return {name: _count(rows, num_old) for name, rows in (("input", inputs), ("head", heads), ("both", both))}


def _digests(source: TensorSource, num_rows: int) -> list[bytes]:
    blocks = (block_ND.contiguous().view(torch.uint8).numpy() for block_ND in source.blocks(0, num_rows))
    return [hashlib.blake2b(row.data, digest_size=16).digest() for block in blocks for row in block]


def _count(rows: Sequence[bytes], num_old: int) -> RowCopies:
    old, new = set(rows[:num_old]), Counter(rows[num_old:])
    return RowCopies(
        of_old_rows=sum(number for row, number in new.items() if row in old),
        shared=sum(number for number in new.values() if number > 1),
    )
