from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data.bin_packing import bins_lower_bound, greedy_knapsack, synthetic_lengths
from data_modules.batches.bin_packing import best_fit_decreasing


@st.composite
def packings(draw):
    """Lengths of few or many kinds, and a capacity that the longest just fits or that many fit."""
    capacity = draw(st.integers(1, 100))
    longest = draw(st.integers(1, capacity))
    lengths = draw(st.lists(st.integers(draw(st.integers(1, longest)), longest), max_size=60))
    return np.array(lengths, dtype=np.int64), capacity


def naive_best_fit(lengths, capacity):
    """Space left in the bins, one item after the other."""
    spaces = []
    for length in sorted(lengths.tolist(), reverse=True):
        fullest = bisect_left(spaces, length)
        space = spaces.pop(fullest) if fullest < len(spaces) else capacity
        insort(spaces, space - length)
    return spaces


def naive_first_fit(lengths, capacity):
    spaces = []
    for length in sorted(lengths.tolist(), reverse=True):
        first = next((i for i, space in enumerate(spaces) if space >= length), len(spaces))
        if first == len(spaces):
            spaces.append(capacity)
        spaces[first] -= length
    return spaces


@given(packings())
def test_every_item_is_in_one_bin_and_no_bin_is_over_full(packing):
    lengths, capacity = packing
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(item for held in bins for item in held.tolist()) == list(range(len(lengths)))
    assert all(0 < lengths[held].sum() <= capacity for held in bins)


@given(packings())
def test_the_bins_are_as_full_as_those_of_plain_best_fit(packing):
    lengths, capacity = packing
    spaces = sorted(capacity - int(lengths[held].sum()) for held in best_fit_decreasing(lengths, capacity))
    assert spaces == naive_best_fit(lengths, capacity)


@given(packings())
def test_at_most_one_bin_more_than_first_fit_and_none_below_the_bound(packing):
    lengths, capacity = packing
    num_bins = len(best_fit_decreasing(lengths, capacity))
    assert bins_lower_bound(lengths, capacity) <= num_bins <= len(naive_first_fit(lengths, capacity)) + 1


@given(packings())
def test_the_greedy_knapsack_is_first_fit(packing):
    assert len(greedy_knapsack(*packing)) == len(naive_first_fit(*packing))


@given(packings(), st.integers(0, 5))
def test_a_permutation_changes_only_which_items_of_equal_length_share_a_bin(packing, seed):
    lengths, capacity = packing
    order = np.random.default_rng(seed).permutation(len(lengths))
    bins, permuted = best_fit_decreasing(lengths, capacity), best_fit_decreasing(lengths[order], capacity)
    assert np.array_equal(bins.starts, permuted.starts)
    assert np.array_equal(lengths[bins.items], lengths[order][permuted.items])
    for length in np.unique(lengths):
        of_length = permuted.items[lengths[order][permuted.items] == length]
        assert (np.diff(of_length) > 0).all()


@given(packings())
def test_the_same_lengths_give_the_same_bins(packing):
    first, second = best_fit_decreasing(*packing), best_fit_decreasing(*packing)
    assert np.array_equal(first.items, second.items) and np.array_equal(first.starts, second.starts)


def test_bins_are_a_sequence():
    bins = best_fit_decreasing(np.array([3, 7, 3, 5]), 10)
    assert [held.tolist() for held in bins] == [[1, 0], [3, 2]]
    assert bins[-1].tolist() == [3, 2]
    assert bins.items.dtype == bins.starts.dtype == np.int64
    with pytest.raises(IndexError):
        bins[2]


def test_no_items_need_no_bins():
    lengths = np.array([], dtype=np.int64)
    assert len(best_fit_decreasing(lengths, 8)) == bins_lower_bound(lengths, 8) == 0


@pytest.mark.parametrize(
    ("lengths", "bound"), [([4, 4, 4], 2), ([5, 5, 5], 2), ([6, 6, 6], 3), ([10], 1), ([10, 1], 2)]
)
def test_the_bound_follows_from_the_total_or_the_items_over_half(lengths, bound):
    assert bins_lower_bound(np.array(lengths), 10) == bound


@pytest.mark.parametrize("length", [-1, 0, 9, 70_000])
def test_a_length_that_exceeds_the_capacity_is_refused(length):
    with pytest.raises(ValueError, match=f"^item 2 has length {length}; it must be from 1 to 8, the capacity$"):
        best_fit_decreasing(np.array([1, 8, length, 0]), 8)


def test_rows_of_a_chat_data_set_are_full():
    lengths = synthetic_lengths(209_000, 1024, seed=0)
    num_bins = len(best_fit_decreasing(lengths, 1024))
    assert bins_lower_bound(lengths, 1024) / num_bins >= 0.9995


@pytest.mark.parametrize("capacity", [300, 70_000])
def test_capacities_beyond_16_bits_are_supported(capacity):
    lengths = np.random.default_rng(0).integers(1, capacity + 1, 500)
    bins = best_fit_decreasing(lengths, capacity)
    assert max(lengths[held].sum() for held in bins) <= capacity
    assert len(bins) == len(naive_best_fit(lengths, capacity))
