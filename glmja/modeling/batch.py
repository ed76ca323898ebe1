"""The batch: what data modules give to training modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IGNORE_INDEX = -100  # `torch.nn.functional.cross_entropy` skips these labels by default


class Batch(TypedDict):
    """B rows of T tokens, padded on the right. `labels` are not shifted: the loss shifts them."""

    input_ids: Tensor  # (B, T) int64, in [0, len(tokenizer))
    labels: Tensor  # (B, T) int64, `IGNORE_INDEX` at positions that are not target tokens
    position_ids: Tensor  # (B, T) or (B, 2, T) int64, restarting at each document, by which documents are isolated
    document_offsets: Tensor  # (N + 1,) int32, where each document starts in the B · T tokens, and B · T
    lengths: Tensor  # (B,) int64, tokens of each row without padding
    mean_target_tokens: Tensor  # () float32, target tokens per micro-batch of the optimizer step, mean over all ranks
    sources: NotRequired[Tensor]  # (B,) int64, number of the source of each row; absent if rows hold several sources
    row_numbers: NotRequired[Tensor]  # (B,) int64, number of each row in its source; only in validation


def document_offsets(position_ids: Tensor) -> Tensor:
    """Returns where each document starts in the B · T tokens, and B · T, (N + 1,) int32; see `document_starts`."""
    starts_BT = document_starts(position_ids)
    return F.pad(starts_BT.flatten().nonzero().flatten(), (0, 1), value=starts_BT.numel()).to(torch.int32)


def select_rows(batch: Batch, rows_B: Tensor) -> Batch:
    """Returns some rows of a batch; `mean_target_tokens` stays that of the optimizer step.

    Args:
        batch: The batch.
        rows_B: Whether to keep each row, (B,) bool.
    """
    selected = Batch(
        input_ids=batch["input_ids"][rows_B],
        labels=batch["labels"][rows_B],
        position_ids=batch["position_ids"][rows_B],
        document_offsets=document_offsets(batch["position_ids"][rows_B]),
        lengths=batch["lengths"][rows_B],
        mean_target_tokens=batch["mean_target_tokens"],
    )
    if "sources" in batch:
        selected["sources"] = batch["sources"][rows_B]
    if "row_numbers" in batch:
        selected["row_numbers"] = batch["row_numbers"][rows_B]
    return selected


def document_starts(position_ids: Tensor) -> Tensor:
    """Returns which tokens begin a document, (B, T), by their positions.

    Args:
        position_ids: (B, T), 0 at each start; or (B, 2, T), where the second position is 0 in a context, so that a
            context after an answer begins a document.
    """
    if position_ids.ndim == 2:
        return position_ids == 0
    first_BT, second_BT = position_ids.unbind(1)
    starts_BT = (first_BT == 0) & (second_BT == 0)
    starts_BT[:, 1:] &= second_BT[:, :-1] != 0
    return starts_BT


def indices_in_documents(position_ids: Tensor) -> Tensor:
    """Returns the index of each token in its document, (B, T).

    Args:
        position_ids: (B, T); or (B, 2, T), where the second position counts on where the first one stops.
    """
    return position_ids if position_ids.ndim == 2 else position_ids.sum(1)


def pad_sequences(
    sequences: Sequence[Sequence[int] | NDArray[np.int64]],
    value: int,
    side: Literal["left", "right"] = "right",
    multiple: int = 1,
) -> Tensor:
    """Pads sequences to the length of the longest one.

    Args:
        sequences: Integers, such as token ids; at least one sequence.
        value: Value of the padding.
        side: Side on which the padding is added.
        multiple: The padded length is rounded up to a multiple of this number.

    Returns:
        (B, T) int64, on the CPU.
    """
    width = -(-max(map(len, sequences)) // multiple) * multiple
    padded_BT = torch.full((len(sequences), width), value, dtype=torch.int64)
    for row_T, sequence in zip(padded_BT, sequences, strict=True):
        part = row_T[: len(sequence)] if side == "right" else row_T[width - len(sequence) :]
        part.copy_(torch.as_tensor(sequence, dtype=torch.int64))
    return padded_BT
