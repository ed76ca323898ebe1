import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_modules.batches.conversations import ConversationRows
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.loader import DistributedEvalBatches, PlannedBatches, RunLoader, load
from data_modules.batches.packing import PackedRows, interleave
from data_modules.batches.rows import count_target_tokens
from tests.support.worlds import Conversations, Documents

ROW_LEN = 8


def rows(num_rows=24):
    store = Documents([7, 3, 12, 1, 9] * 3)
    return PackedRows(
        [store], [DocumentStream(store.lengths, np.arange(15), (0,))], interleave([1.0], num_rows), ROW_LEN
    )


def loader(rank=0, world_size=1, accumulate=1, num_workers=0, fingerprint="a"):
    plan = np.arange(24).reshape(-1, 2)
    return RunLoader(PlannedBatches(rows(), plan, rank, world_size, accumulate), num_workers, fingerprint)


def ids(batches):
    return [batch["input_ids"].tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 5, 11])
def test_a_loader_continues_at_the_position_of_another(num_workers, stop):
    unbroken, killed, resumed = ids(loader()), loader(num_workers=num_workers), loader(num_workers=num_workers)
    batches = iter(killed)
    seen = [next(batches)["input_ids"].tolist() for _ in range(stop)]
    resumed.load_state_dict(killed.state_dict())
    assert seen + ids(resumed) == unbroken
    assert len(resumed) == len(unbroken) == 12


def test_a_finished_loader_starts_over():
    one = loader()
    assert ids(one) == ids(one)


def test_the_ranks_share_the_batches_of_one():
    together = ids(loader())
    ranks = [ids(loader(rank, 3)) for rank in range(3)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == together


@given(st.lists(st.integers(1, 8), min_size=4, max_size=12), st.integers(1, 2), st.sampled_from([1, 4]))
def test_the_largest_batch_has_the_most_tokens_including_padding(lengths, world_size, multiple):
    store = Conversations(lengths)
    members = np.stack([np.zeros(len(lengths), np.int64), np.arange(len(lengths))], axis=1)
    numbers = np.arange(len(lengths))
    plan = np.array_split(numbers, 2 * world_size)
    of = ConversationRows([store], members, list(numbers[:, None]))
    for rank in range(world_size):
        batches = PlannedBatches(of, plan, rank, world_size, multiple=multiple)
        sizes = [batches[i]["input_ids"].shape for i in range(len(batches))]
        assert batches.largest()["input_ids"].shape == max(sizes, key=lambda shape: (shape.numel(), shape[1]))


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 4), (2, 2), (3, 1)])
def test_every_batch_holds_the_mean_target_tokens_of_its_optimizer_step(world_size, accumulate):
    ranks = [list(loader(rank, world_size, accumulate)) for rank in range(world_size)]
    for first in range(0, len(ranks[0]), accumulate):
        step = [batch for rank in ranks for batch in rank[first : first + accumulate]]
        mean = sum(count_target_tokens(batch["labels"]) for batch in step) / len(step)
        assert all(batch["mean_target_tokens"] == torch.tensor(mean) for batch in step)


def test_the_target_tokens_of_an_optimizer_step_are_counted_once(monkeypatch):
    counted = []
    count = PackedRows.num_target_tokens
    monkeypatch.setattr(PackedRows, "num_target_tokens", lambda *args: counted.append(args) or count(*args))
    assert len(list(loader(rank=1, world_size=2, accumulate=3))) == 6
    assert len(counted) == 2


def test_loading_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(num_workers=2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_state_of_other_data_is_refused():
    with pytest.raises(ValueError, match=r"saved with other data.*fingerprint a, now b"):
        loader(fingerprint="b").load_state_dict(loader().state_dict())


@given(num_rows=st.integers(1, 24), batch_size=st.integers(1, 5), world_size=st.integers(1, 4))
def test_each_validation_row_goes_to_one_rank_and_all_ranks_have_equally_many_batches(num_rows, batch_size, world_size):
    shares = [DistributedEvalBatches(rows(), num_rows, batch_size, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in load(share, range(len(share)), 0)]
    targets = sum(count_target_tokens(batch["labels"]) for batch in batches)
    assert targets == rows().num_target_tokens(np.arange(num_rows))
