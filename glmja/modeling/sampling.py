"""Settings for choosing tokens during generation. Imports no torch, so that a command's signature can use it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Settings of token generation.

    Attributes:
        max_new_tokens: Maximum number of tokens per reply.
        do_sample: Sample from the distribution; if False, take the most likely token each time (greedy decoding).
        temperature: Divisor of the logits before sampling, above 0. Smaller values are closer to greedy decoding.
        top_p: Sample from the smallest set of tokens whose probabilities sum to at least this share
            (nucleus sampling, Holtzman et al. 2019, https://arxiv.org/abs/1904.09751).
        seed: Seed of the sampling; the same seed gives the same replies. Drawn at random if None.

    Raises:
        ValueError: If a value is out of range.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 0.8
    top_p: float = 0.8
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` ({self.max_new_tokens}) must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"`temperature` ({self.temperature}) must be above 0 and finite; "
                "set `do_sample` to false for greedy decoding"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` ({self.top_p}) must be above 0 and at most 1")
