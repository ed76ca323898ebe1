import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.packing import PackedRows, interleave, interleave_apart
from data_modules.batches.rows import Fragment, collate, count_target_tokens, pack
from glmja.modeling.batch import IGNORE_INDEX
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss
from tests.support.worlds import Documents

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def packed_rows(stores, row_len, num_rows, seed=0, shares=None, **others):
    streams = [DocumentStream(s.lengths, np.arange(len(s.lengths)), (seed, i)) for i, s in enumerate(stores)]
    order = interleave(shares or [1.0] * len(stores), num_rows)
    return PackedRows(stores, streams, order, row_len, **others)


@given(lengths=LENGTHS, row_len=st.integers(2, 50))
def test_rows_hold_the_tokens_of_the_stream_in_order(lengths, row_len):
    store = Documents(lengths)
    rows = packed_rows([store], row_len, 2 * sum(lengths) // row_len)
    stream = [t for d, a, b in rows.streams[0].parts(0, 2 * sum(lengths)) for t in store.document(d)[a:b]]
    packed = [token for i in range(len(rows)) for token in rows[i].input_ids.tolist()]
    assert packed == stream[: len(packed)]
    assert len(stream) - len(packed) < row_len


@given(lengths=LENGTHS, row_len=st.integers(2, 50))
def test_a_last_row_may_be_shorter_so_that_no_token_is_dropped(lengths, row_len):
    store, num_rows = Documents(lengths), -(-sum(lengths) // row_len)
    rows = packed_rows([store], row_len, num_rows, num_tokens=[sum(lengths)])
    assert sorted(t for i in range(num_rows) for t in rows[i].input_ids.tolist()) == store.tokens.tolist()


@given(lengths=LENGTHS, row_len=st.integers(2, 50), isolate=st.booleans())
def test_at_each_document_positions_restart_and_the_first_token_is_no_target(lengths, row_len, isolate):
    store = Documents(lengths)
    rows = packed_rows([store], row_len, sum(lengths) // row_len, isolate=isolate)
    first_tokens = set(store.tokens[store.starts[:-1]].tolist())
    for i in range(len(rows)):
        ids, labels, positions = (part.tolist() for part in rows[i][:3])
        assert rows.num_target_tokens(np.array([i])) == count_target_tokens(torch.tensor([labels]))
        for t, token in enumerate(ids):
            starts = t == 0 or (isolate and token in first_tokens)
            assert labels[t] == (IGNORE_INDEX if starts else token)
            assert positions[t] == (0 if starts else positions[t - 1] + 1)


def test_a_row_is_a_function_of_seed_and_number():
    stores = [Documents([7] * 30), Documents([5] * 40, first=10_000)]
    run, again, other = (packed_rows(stores, 8, 130, seed) for seed in (3, 3, 4))
    numbers = [57, 3, 120, 0, 57]
    ids = [run[i].input_ids.tolist() for i in numbers]
    assert ids == [again[i].input_ids.tolist() for i in reversed(numbers)][::-1]
    assert ids != [other[i].input_ids.tolist() for i in numbers]


@given(shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=6), num_rows=st.integers(1, 500))
def test_every_stretch_of_a_run_has_the_mix_of_the_sources(shares, num_rows):
    sources, numbers = interleave(shares, num_rows)
    for i, share in enumerate(np.array(shares) / sum(shares)):
        mine = sources == i
        assert (np.abs(np.cumsum(mine) - share * np.arange(1, num_rows + 1)) <= len(shares)).all()
        assert numbers[mine].tolist() == list(range(mine.sum()))


@given(shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=6), num_rows=st.integers(1, 300))
def test_a_longer_run_begins_with_the_rows_of_a_shorter_one(shares, num_rows):
    short, long = interleave(shares, num_rows), interleave(shares, num_rows + 70)
    assert all((a == b[:num_rows]).all() for a, b in zip(short, long, strict=True))


@st.composite
def apart_cases(draw):
    shares = draw(st.lists(st.floats(0.05, 1), min_size=1, max_size=5))
    apart = draw(st.sets(st.integers(0, len(shares) - 1)))
    return shares, apart, draw(st.integers(1, 8)), draw(st.integers(1, 60))


@given(apart_cases())
def test_rows_with_a_teacher_share_units_with_each_other_only(case):
    shares, apart, unit, num_units = case
    sources, numbers = interleave_apart(shares, apart, unit * num_units, unit)
    distilled = np.isin(sources, [*apart]).reshape(num_units, unit)
    assert (distilled.all(1) | ~distilled.any(1)).all()
    wanted = sum(shares[i] for i in apart) / sum(shares)
    assert (np.abs(np.cumsum(distilled[:, 0]) - wanted * np.arange(1, num_units + 1)) <= 2).all()
    for i in range(len(shares)):
        assert numbers[sources == i].tolist() == list(range((sources == i).sum()))


@given(apart_cases())
def test_a_longer_run_with_a_teacher_begins_with_the_rows_of_a_shorter_one(case):
    shares, apart, unit, num_units = case
    short, long = (interleave_apart(shares, apart, unit * n, unit) for n in (num_units, num_units + 9))
    assert all((a == b[: len(a)]).all() for a, b in zip(short, long, strict=True))


def test_without_sources_apart_rows_alternate_as_ever():
    shares = [0.5, 0.3, 0.2]
    for apart in ([], [0, 1, 2]):
        assert np.array_equal(interleave_apart(shares, apart, 120, 4), interleave(shares, 120))


def test_rows_and_batches_tell_their_source():
    stores = [Documents([7] * 30), Documents([5] * 40, first=10_000)]
    rows = packed_rows(stores, 8, 30)
    assert [rows[i].source for i in range(30)] == rows.sources.tolist()
    assert collate([rows[3], rows[4]])["sources"].tolist() == rows.sources[3:5].tolist()
    assert packed_rows(stores[1:], 8, 5, first_source=1)[2].source == 1
    assert "sources" not in collate([pack([Fragment(np.arange(1, 5, dtype=np.uint32))])])


def test_padding_is_neither_a_target_nor_a_document():
    rows = [pack([Fragment(np.arange(1, n + 1, dtype=np.uint32))]) for n in (3, 5)]
    batch = collate(rows, multiple=8)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [-100, 2, 3, -100, -100, -100, -100, -100],
        [-100, 2, 3, 4, 5, -100, -100, -100],
    ]
    assert batch["position_ids"].tolist() == [list(range(8))] * 2
    assert batch["lengths"].tolist() == [3, 5]
    assert batch["mean_target_tokens"] == 6


def test_only_tokens_within_the_loss_mask_have_labels():
    ids = np.array([5, 6, 7, 8], dtype=np.uint32)
    row = pack(
        [Fragment(ids, np.array([False, False, True, True])), Fragment(ids, np.array([True, True, False, True]))]
    )
    assert row.labels.tolist() == [-100, -100, 7, 8, -100, 6, -100, 8]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def loss(model, batch):
    hidden = model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)[0]
    return next_token_loss(hidden, model.lm_head.weight, batch["labels"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_a_packed_row_is_the_sum_over_its_documents(zero_dir, attention):
    model = load_model(zero_dir, torch.float64, attention)
    documents = [Fragment(np.random.default_rng(n).integers(3, 3000, n).astype(np.uint32)) for n in (9, 1, 17, 5)]
    packed, targets = loss(model, collate([pack(documents)], 40))
    alone = [loss(model, collate([pack([d])])) for d in documents if len(d.ids) > 1]
    assert targets.numel() == sum(labels.numel() for _, labels in alone) == 8 + 16 + 4
    torch.testing.assert_close(packed, sum(total for total, _ in alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_padded_rows_is_the_sum_over_the_rows(zero_dir, attention):
    model = load_model(zero_dir, torch.float64, attention)
    rows = [pack([Fragment(np.random.default_rng(n).integers(3, 3000, n).astype(np.uint32))]) for n in (9, 30, 17)]
    together, _ = loss(model, collate(rows, 8))
    torch.testing.assert_close(together, sum(loss(model, collate([row]))[0] for row in rows), rtol=1e-5, atol=1e-5)


def test_rows_of_a_batch_may_have_different_document_borders(zero_dir):
    model = load_model(zero_dir, torch.float64)
    rng = np.random.default_rng(0)
    parts = [[Fragment(rng.integers(3, 3000, n).astype(np.uint32)) for n in ns] for ns in [(9, 1, 20), (4, 21, 5)]]
    rows = [pack(fragments) for fragments in parts]

    def hidden(batch):
        return model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)[0]

    together = hidden(collate(rows))
    for row, ours in zip(rows, together, strict=True):
        torch.testing.assert_close(ours, hidden(collate([row]))[0])
