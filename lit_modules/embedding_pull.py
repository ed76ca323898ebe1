"""Pulls embedding rows of the base model towards their start, as decoupled weight decay pulls weights towards zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def check_pull(strength: float, embeddings: str) -> None:
    """Checks that there is something to pull.

    Raises:
        ValueError: If the strength is out of range, or the rows do not train.
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"`embedding_pull` ({strength}) must be at least 0, and finite")
    if strength and embeddings != "full":
        raise ValueError(
            f"`embedding_pull` pulls rows that train, and with `embeddings` {embeddings} the base's rows do not; set "
            "`embeddings` to full, or leave out `embedding_pull`"
        )


class EmbeddingPull:
    """A hook after each step of an optimizer: w ← w − min(1, strength · learning rate) · (w − start).

    This is the weight decay of AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) with the start of
    the run in the place of zero. Steps that are skipped because a gradient is not finite do not pull; a hook before the
    step could not see that, since Lightning computes gradients within the step.
    """

    def __init__(self, strength: float, pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """Creates the hook.

        Args:
            strength: Strength relative to the learning rate.
            pairs: Parameters, and what their first rows were at the start.
        """
        self.strength, self.pairs = strength, pairs

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Pulls the rows."""
        group = optimizer.param_groups[0]
        if all(parameter.grad is None for parameter in group["params"]):
            return
        share = min(1.0, self.strength * float(group["lr"]))
        for parameter, start_OD in self.pairs:
            values, first = _trained(parameter)
            start = start_OD.flatten()[first : first + len(values)]
            values[: len(start)].lerp_(start.to(values), share)


def _trained(parameter: nn.Parameter) -> tuple[Tensor, int]:
    """Returns the values that the optimizer of this process trains, flat, and the place of the first in the parameter.

    Under ZeRO-2, each process trains a part, in fp32; the parameter itself is only a copy.
    """
    if not hasattr(parameter, "_hp_mapping"):
        return parameter.data.view(-1), 0
    mapping: Any = parameter._hp_mapping
    if mapping is None:  # another process trains it
        return parameter.data.new_empty(0), 0
    return mapping.hp_fragment.data, mapping.lp_fragment_address.start
