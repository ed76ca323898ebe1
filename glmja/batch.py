"""The one corridor between data and training."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

IGNORE_INDEX = -100  # `torch.nn.functional.cross_entropy` skips these labels by default


class Batch(TypedDict):
    """B rows of T tokens. `labels` are not shifted: the loss shifts them."""

    input_ids: Tensor  # (B, T) int64, in [0, len(tokenizer))
    labels: Tensor  # (B, T) int64, `IGNORE_INDEX` where nothing is to be learnt
    position_ids: Tensor  # (B, T) int64, from 0 at each document: `transformers` isolates documents by them
