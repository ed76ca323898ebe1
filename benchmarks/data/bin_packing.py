"""Measures the number of rows that bin packing needs, and its time: `python -m benchmarks.data.bin_packing`.

The lengths are log-normal with the median (148) and the 95th percentile (600) of a mixed chat data set in tokens,
truncated to the row. Compared with `best_fit_decreasing` are greedy knapsacks as in LLaMA-Factory, which fill one bin
after the other with the longest item that still fits: over groups of 1000 items (LLaMA-Factory's way) or all items.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, publish
from data_modules.batches.bin_packing import best_fit_decreasing

MEDIAN, P95, NORMAL_P95 = 148, 600, 1.6449


def synthetic_lengths(num_items: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Draws log-normal lengths from 1 to the capacity."""
    exponents = np.random.default_rng(seed).standard_normal(num_items) / NORMAL_P95
    return np.clip(np.rint(MEDIAN * (P95 / MEDIAN) ** exponents), 1, capacity).astype(np.int64)


def bins_lower_bound(lengths: NDArray[np.int64], capacity: int) -> int:
    """Returns a lower bound for the number of bins: the total must fit, and no two items over half share a bin."""
    return max(-(-int(lengths.sum()) // capacity), int((lengths * 2 > capacity).sum()))


def greedy_knapsack(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Fills each bin with the longest item that fits until none does; returns the lengths in each bin."""
    ascending, bins = sorted(lengths.tolist()), []
    while ascending:
        free, held = capacity, []
        while longest := bisect_right(ascending, free):
            held.append(ascending.pop(longest - 1))
            free -= held[-1]
        bins.append(held)
    return bins


def grouped(lengths: NDArray[np.int64], capacity: int) -> int:
    """Counts the bins of the greedy knapsack over groups of 1000 items."""
    return sum(len(greedy_knapsack(lengths[i : i + 1000], capacity)) for i in range(0, len(lengths), 1000))


WAYS: dict[str, Callable[[NDArray[np.int64], int], int]] = {
    "glmja, all items": lambda lengths, capacity: len(best_fit_decreasing(lengths, capacity)),
    "greedy, per 1000": grouped,
    "greedy, all items": lambda lengths, capacity: len(greedy_knapsack(lengths, capacity)),
}


def compare(lengths: NDArray[np.int64], capacity: int, num_rounds: int) -> Figures:
    """Packs with each method; seconds are medians."""
    title = f"{len(lengths):,} items, mean {lengths.mean():.0f}, median {np.median(lengths):.0f}, into {capacity}"
    figures = Figures(title, ["packing", "bins", "lower bound", "bins / bound", "fill", "seconds"])
    bound = bins_lower_bound(lengths, capacity)
    for name, way in WAYS.items():
        seconds = []
        for _ in range(num_rounds):
            start = time.perf_counter()
            num_bins = way(lengths, capacity)
            seconds.append(time.perf_counter() - start)
        fill = lengths.sum() / (num_bins * capacity)
        cells = [f"{num_bins:,}", f"{bound:,}", f"{num_bins / bound:.5f}", f"{fill:.3%}"]
        figures.rows.append([name, *cells, f"{statistics.median(seconds):.4f}"])
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--num_items", type=int, default=209_000, help="Number of lengths.")
    parser.add_argument("--capacity", type=int, default=1024, help="Tokens per row.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the lengths.")
    options = parser.parse_args(args)
    lengths = synthetic_lengths(options.num_items, options.capacity, options.seed)
    publish([compare(lengths, options.capacity, options.rounds)], options.markdown)


if __name__ == "__main__":
    main()
