"""The one corridor between data and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE_INDEX = -100  # `torch.nn.functional.cross_entropy` skips these labels by default


class Batch(TypedDict):
    """B rows of T tokens, right-padded. `labels` are not shifted: the loss shifts them."""

    input_ids: Tensor  # (B, T) int64, in [0, len(tokenizer))
    labels: Tensor  # (B, T) int64, `IGNORE_INDEX` where nothing is to be learnt
    position_ids: Tensor  # (B, T) int64, from 0 at each document: `transformers` isolates documents by them
    lengths: Tensor  # (B,) int64, tokens of each row without its padding
    mean_target_tokens: Tensor  # () float32, learnt tokens a micro-batch, a mean over its optimizer step on all ranks


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
