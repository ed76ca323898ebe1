import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.batches.batching import group_by_length, pack_whole, shuffle_groups, split_to_multiple

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


def rng():
    return np.random.default_rng(0)


def conversations(batches):
    return sorted(int(n) for batch in batches for row in batch for n in row)


@given(lengths=LENGTHS, tokens=st.integers(64, 300))
def test_batches_of_similar_lengths_hold_each_conversation_once_within_the_budget(lengths, tokens):
    batches = group_by_length(lengths, tokens, 8, rng())
    assert conversations(batches) == list(range(len(lengths)))
    for batch in batches:
        width = max(-(-lengths[row[0]] // 8) * 8 for row in batch)
        assert len(batch) * width <= tokens


@given(lengths=LENGTHS, tokens=st.integers(64, 300))
def test_packed_rows_hold_each_conversation_once_within_the_row(lengths, tokens):
    batches = pack_whole(lengths, tokens, 64, rng())
    assert conversations(batches) == list(range(len(lengths)))
    assert all(len(batch) * 64 <= tokens for batch in batches)
    assert all(lengths[row].sum() <= 64 for batch in batches for row in batch)


@given(lengths=LENGTHS, multiple=st.integers(1, 8), packing=st.booleans())
def test_splitting_reaches_the_multiple_and_keeps_all_conversations(lengths, multiple, packing):
    batches = pack_whole(lengths, 128, 64, rng()) if packing else group_by_length(lengths, 128, 8, rng())
    if len(lengths) < multiple:
        with pytest.raises(ValueError, match=f"{len(lengths)} conversations cannot be shared among the {multiple}"):
            split_to_multiple(batches, multiple)
        return
    halved = split_to_multiple(batches, multiple)
    assert len(halved) % multiple == 0
    assert len(halved) - len(batches) < multiple
    assert conversations(halved) == list(range(len(lengths)))
    assert all(len(row) for batch in halved for row in batch)


@given(lengths=LENGTHS, world_size=st.integers(1, 4))
def test_ranks_process_similar_lengths_at_the_same_time(lengths, world_size):
    lengths = np.tile(lengths, world_size)
    batches = split_to_multiple(group_by_length(lengths, 128, 8, rng()), world_size)
    shuffled = shuffle_groups(batches, world_size, rng())
    assert conversations(shuffled) == conversations(batches)
    at_once = [[b[0][0] for b in shuffled[i : i + world_size]] for i in range(0, len(shuffled), world_size)]
    before = [[b[0][0] for b in batches[i : i + world_size]] for i in range(0, len(batches), world_size)]
    assert sorted(at_once) == sorted(before)


def test_long_conversations_are_spread_over_the_run():
    lengths = np.random.default_rng(1).integers(8, 512, 4000)
    batches = shuffle_groups(group_by_length(lengths, 4096, 8, rng()), 1, rng())
    widths = [lengths[batch[0][0]] for batch in batches]
    assert np.corrcoef(widths, np.arange(len(widths)))[0, 1] < 0.2
