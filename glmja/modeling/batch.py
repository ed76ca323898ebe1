"""The one corridor between data and training."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

IGNORE_INDEX = -100  # `torch.nn.functional.cross_entropy` skips these labels by default


class Batch(TypedDict):
    """B rows of T tokens, right-padded. `labels` are not shifted: the loss shifts them."""

    input_ids: Tensor  # (B, T) int64, in [0, len(tokenizer))
    labels: Tensor  # (B, T) int64, `IGNORE_INDEX` where nothing is to be learnt
    position_ids: Tensor  # (B, T) int64, from 0 at each document: `transformers` isolates documents by them
    lengths: Tensor  # (B,) int64, tokens of each row without its padding
    mean_target_tokens: Tensor  # () float32, learnt tokens a micro-batch, a mean over its optimizer step on all ranks
