from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_modules.packing import EpochSampler, PackedRows, RunRows, collate, pack
from glmja.batch import IGNORE_INDEX
from glmja.loss import next_token_loss
from glmja.model import load_model


class Documents:
    """A store in memory; every token is its own number, so that nothing can be confused."""

    def __init__(self, lengths, first=1):
        self.starts = np.cumsum([0, *lengths])
        self.lengths = np.array(lengths, dtype=np.int64)
        self.tokens = np.arange(first, first + self.starts[-1], dtype=np.uint32)

    def document(self, i):
        return self.tokens[self.starts[i] : self.starts[i + 1]].tolist()


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths=LENGTHS, row_len=st.integers(2, 50))
def test_rows_hold_every_token_once_and_in_order_but_the_tail(lengths, row_len):
    store = Documents(lengths)
    order = np.random.default_rng(0).permutation(len(lengths))
    rows = PackedRows(store, order, row_len, keep_tail=False)
    stream = [token for i in order for token in store.document(i)]
    packed = [token for i in range(len(rows)) for token in rows[i]["input_ids"].tolist()]
    assert packed == stream[: len(packed)]
    assert rows.num_dropped == len(stream) - len(packed) < row_len


@given(lengths=LENGTHS, row_len=st.integers(2, 50))
def test_the_tail_is_padded_where_nothing_may_be_dropped(lengths, row_len):
    store = Documents(lengths)
    rows = PackedRows(store, np.arange(len(lengths)), row_len, keep_tail=True)
    packed = [token for i in range(len(rows)) for token in rows[i]["input_ids"].tolist()]
    assert packed[: len(store.tokens)] == store.tokens.tolist()
    assert rows.num_dropped == 0
    padding = rows[len(rows) - 1]["labels"][row_len - (len(packed) - len(store.tokens)) :]
    assert (padding == IGNORE_INDEX).all()


@given(lengths=LENGTHS, row_len=st.integers(2, 50))
def test_positions_restart_and_the_first_token_is_not_learnt_at_each_document(lengths, row_len):
    store = Documents(lengths)
    rows = PackedRows(store, np.arange(len(lengths)), row_len, keep_tail=False)
    first_tokens = {store.document(i)[0] for i in range(len(lengths))}
    for i in range(len(rows)):
        row = rows[i]
        for t in range(row_len):
            token, starts = row["input_ids"][t].item(), t == 0 or row["input_ids"][t].item() in first_tokens
            assert row["labels"][t].item() == (IGNORE_INDEX if starts else token)
            assert row["position_ids"][t].item() == (0 if starts else row["position_ids"][t - 1].item() + 1)


@given(first=LENGTHS, second=LENGTHS, row_len=st.integers(2, 20), seed=st.integers(0, 5))
def test_every_epoch_has_every_row_of_every_source(first, second, row_len, seed):
    stores = [Documents(first), Documents(second, first=10_000)]
    rows = RunRows(stores, [np.arange(len(first)), np.arange(len(second))], row_len, seed)
    assert len(rows) == sum(first) // row_len + sum(second) // row_len
    for epoch in (0, 2, 1):
        seen = [t for i in range(len(rows)) for t in rows[epoch * len(rows) + i]["input_ids"].tolist()]
        assert max(Counter(seen).values(), default=1) == 1
        assert sum(t >= 10_000 for t in seen) == sum(second) // row_len * row_len
    assert rows.num_dropped == sum(first) % row_len + sum(second) % row_len


def test_a_row_is_a_function_of_seed_and_number():
    stores, documents = [Documents([7] * 30), Documents([5] * 40, first=10_000)], [np.arange(30), np.arange(40)]
    run, again, other = (RunRows(stores, documents, 8, seed) for seed in (3, 3, 4))
    numbers = [57, 3, 120, 0, 57]
    ids = [run[i]["input_ids"].tolist() for i in numbers]
    assert ids == [again[i]["input_ids"].tolist() for i in reversed(numbers)][::-1]
    assert ids != [other[i]["input_ids"].tolist() for i in numbers]
    epochs = [[run[e * len(run) + i]["input_ids"].tolist() for i in range(len(run))] for e in (0, 1)]
    assert epochs[0] != epochs[1]


def test_every_part_of_an_epoch_has_the_mix_of_the_sources():
    stores = [Documents([10] * 300), Documents([10] * 100, first=10_000)]
    rows = RunRows(stores, [np.arange(300), np.arange(100)], 10, seed=0)
    second = [source for source, _ in rows.order]
    for end in range(1, len(second) + 1):
        assert abs(sum(second[:end]) - end / 4) <= 1


def test_an_epochs_sampler_numbers_the_rows_of_the_run():
    sampler = EpochSampler(4)
    assert list(sampler) == [0, 1, 2, 3]
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]
    assert len(sampler) == 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_a_packed_row_is_that_of_its_documents(zero_dir, attention):
    model = load_model(zero_dir, torch.float64, attention)
    documents = [torch.randint(3, 3000, (n,)) for n in (9, 1, 17, 5)]

    def loss(batch):
        hidden = model.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).last_hidden_state
        return next_token_loss(hidden, model.lm_head.weight, batch["labels"])

    packed, learnt = loss(collate([pack([d.numpy().astype(np.uint32) for d in documents], 40)]))
    alone = [loss(collate([pack([d.numpy().astype(np.uint32)], len(d))])) for d in documents if len(d) > 1]
    assert learnt.numel() == sum(labels.numel() for _, labels in alone) == 8 + 16 + 4
    torch.testing.assert_close(packed, sum(total for total, _ in alone), rtol=1e-5, atol=1e-5)


def test_rows_of_one_batch_do_not_share_their_borders(zero_dir):
    model = load_model(zero_dir, torch.float64)
    rows = [
        pack(
            [np.random.default_rng(i * 10 + j).integers(3, 3000, n).astype(np.uint32) for j, n in enumerate(lengths)],
            30,
        )
        for i, lengths in enumerate([(9, 1, 20), (4, 21, 5)])
    ]

    def hidden(batch):
        return model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)[0]

    together = hidden(collate(rows))
    for row, ours in zip(rows, together, strict=True):
        torch.testing.assert_close(ours, hidden(collate([row]))[0])
