"""Means of the parts of the loss over the target tokens of an optimizer step, on all ranks and in all micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class LossPart(NamedTuple):
    """A part of the loss, for the log: sum over some target tokens of a micro-batch, in nats."""

    name: str  # as in `train/NAME`
    nats: Tensor  # without gradients
    num_tokens: int


class StepLoss(NamedTuple):
    """The loss of a micro-batch."""

    total: Tensor  # what training minimizes, summed over the target tokens
    targets_N: Tensor  # the target tokens
    parts: Sequence[LossPart]


class StepLosses(Metric):
    """Means of the parts of the loss; a part without tokens is left out, NaN stays NaN."""

    full_state_update = False
    nats: Tensor
    num_tokens: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        """Creates empty means.

        Args:
            names: Names of the parts.
        """
        super().__init__()
        self.names = list(names)
        for state in ("nats", "num_tokens"):
            self.add_state(state, torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, parts: Sequence[LossPart]) -> None:
        """Adds the parts of a micro-batch; it may lack some."""
        for part in parts:
            if part.num_tokens:
                i = self.names.index(part.name)
                self.nats[i] += part.nats
                self.num_tokens[i] += part.num_tokens

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean of each part that has tokens, in nats per token, by its name."""
        means = (self.nats / self.num_tokens).to(torch.float32)
        has_tokens = (self.num_tokens > 0).tolist()
        return {name: mean for name, mean, has in zip(self.names, means, has_tokens, strict=True) if has}
