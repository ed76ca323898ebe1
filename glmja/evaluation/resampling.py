"""Relative changes of losses between two models, with confidence intervals over the texts that they are sums of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAX_DRAWN = 1_000_000  # numbers of texts in memory at a time

Losses = NDArray[np.float64]


def relative_change(old: Losses, new: Losses) -> Losses:
    """Returns the relative changes of the sums over the last dimension."""
    return np.asarray(new.sum(-1) / old.sum(-1) - 1)


def bootstrap_interval(
    old_N: Losses, new_N: Losses, num_resamples: int, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Computes a confidence interval of `relative_change` over texts.

    Texts, not tokens, are resampled, since the tokens of a text depend on each other: the percentile bootstrap of Efron
    1979, "Bootstrap Methods: Another Look at the Jackknife". Both losses of a text are drawn together.

    Args:
        old_N: Loss of each text under one model.
        new_N: The same under the other.
        num_resamples: Number of resamples.
        confidence: Probability that the interval is to contain the change with.
        seed: Seed of the resampling.

    Returns:
        The ends of the interval.

    Dimensions: N texts, R resamples
    """
    generator, count = np.random.default_rng(seed), len(old_N)
    changes, left = [], num_resamples
    while left > 0:
        at_a_time = min(left, max(1, _MAX_DRAWN // count))
        drawn_RN = generator.integers(0, count, (at_a_time, count))
        changes.append(relative_change(old_N[drawn_RN], new_N[drawn_RN]))
        left -= at_a_time
    low, high = np.quantile(np.concatenate(changes), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
