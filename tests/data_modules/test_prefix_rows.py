"""Packed documents for a model that reads a context in both directions."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.throughput import count_tokens
from data_modules import PackedPretrainingData, TextSource
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.packing import interleave
from data_modules.batches.prefix_rows import NUM_ADDED, PrefixRows, prefixed
from data_modules.batches.rows import collate, count_target_tokens
from glmja.families.recognition import load_tokenizer
from glmja.modeling.attention import model_inputs
from glmja.modeling.batch import IGNORE_INDEX, document_starts
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss
from tests.support.fake_trainer import FakeTrainer
from tests.support.worlds import Documents

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=20)
GMASK, SOP = 900_000, 900_001


class Control:
    """The part of a tokenizer that rows depend on, with ids that no document has."""

    prefix_ids = [GMASK, SOP]  # noqa: RUF012

    @staticmethod
    def positions(ids):
        start = ids.tolist().index(SOP)
        index = np.arange(len(ids))
        return np.stack([np.minimum(index, start - 1), np.maximum(index - start + 1, 0)])


def prefix_rows(store, row_len, num_rows=None, seed=(0, 0), share=0.5, tokenizer=Control):
    stream = prefixed(DocumentStream(store.lengths, np.arange(len(store.lengths)), seed))
    total = stream.tokens_per_pass
    order = interleave([1.0], num_rows or -(-total // (row_len - NUM_ADDED)))
    ends = None if num_rows else [total]
    return PrefixRows([store], [stream], order, row_len=row_len, tokenizer=tokenizer, context_share=share,
                      num_tokens=ends)  # fmt: skip


def sequences(row):
    """Returns context, answer and labels of each sequence of a row."""
    starts = [*document_starts(torch.tensor(row.position_ids)[None])[0].nonzero().flatten().tolist(), None]
    for begin, end in pairwise(starts):
        ids, labels = row.input_ids[begin:end].tolist(), row.labels[begin:end].tolist()
        sop = ids.index(SOP)
        assert ids[sop - 1] == GMASK and ids.count(GMASK) == ids.count(SOP) == 1
        yield ids[: sop - 1], ids[sop + 1 :], labels


@given(lengths=LENGTHS, row_len=st.integers(8, 50), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_token_of_a_pass_is_in_a_context_or_a_target_once(lengths, row_len, share):
    store = Documents(lengths)
    rows = prefix_rows(store, row_len, share=share)
    found = []
    for i in range(len(rows)):
        row = rows[i]
        assert rows.length(i) == len(row.input_ids) <= row_len
        assert rows.num_target_tokens(np.array([i])) == count_target_tokens(torch.tensor(row.labels[None]))
        for context, answer, labels in sequences(row):
            assert labels == [IGNORE_INDEX] * (len(context) + NUM_ADDED) + answer and answer
            assert len(context) <= len(answer)
            assert bool(context) == bool(share) or share == 0.5 or len(answer) == 1
            found += context + answer
    assert sorted(found) == store.tokens.tolist()


@given(lengths=LENGTHS, row_len=st.integers(8, 50))
def test_rows_of_a_run_are_full_up_to_four_tokens(lengths, row_len):
    rows = prefix_rows(Documents(lengths), row_len, num_rows=9)
    assert all(row_len - 4 <= rows.length(i) <= row_len for i in range(len(rows)))


def test_a_row_is_a_function_of_seed_and_number():
    store = Documents([17] * 30)
    run, again, other = (prefix_rows(store, 24, 90, (seed, 0)) for seed in (3, 3, 4))
    numbers = [57, 3, 80, 0, 57]
    ids = [run[i].input_ids.tolist() for i in numbers]
    assert ids == [again[i].input_ids.tolist() for i in reversed(numbers)][::-1]
    assert ids != [other[i].input_ids.tolist() for i in numbers]


def test_contexts_change_from_pass_to_pass_and_have_every_length_up_to_half_of_the_text():
    store = Documents([20])
    rows = prefix_rows(store, 24, 400, share=0.75)  # a document fills a row
    lengths = Counter(len(context) for i in range(400) for context, _, _ in sequences(rows[i]))
    assert set(lengths) == {*range(11)}
    assert 60 < lengths[0] < 140


def test_documents_of_validation_have_no_context():
    rows = prefix_rows(Documents([17] * 30), 24, seed=None, share=1.0)
    assert not any(context for i in range(len(rows)) for context, _, _ in sequences(rows[i]))


@pytest.fixture(scope="module")
def tokenizer(chatglm1_dir):
    return load_tokenizer(chatglm1_dir)


@pytest.fixture(scope="module")
def source(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "zh.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts["zh"][:60]), encoding="utf-8")
    return TextSource("zh", "zh", [str(path)])


@pytest.fixture
def data(chatglm1_dir, source, tmp_path):
    def create(row_len=64, trainer=FakeTrainer, **settings):
        created = PackedPretrainingData(
            str(chatglm1_dir), [source], row_len, 2, cache_dir=str(tmp_path / "cache"), **settings
        )
        created.trainer = trainer()
        created.setup("fit")
        return created

    return create


def test_packed_documents_are_computed_as_each_alone(data, chatglm1_dir):
    model = load_model(chatglm1_dir, torch.float32).eval()

    def states(inputs):
        with torch.no_grad():
            return model.base_model(**inputs).last_hidden_state

    prepared = data(row_len=240)
    batch = prepared.train_dataloader().batches[0]
    packed, offsets = states(model_inputs(batch, "sdpa")), batch["document_offsets"].tolist()
    logits = model.get_output_embeddings()(packed).flatten(0, 1)
    ids, contexts, num_documents = batch["input_ids"].flatten(), 0, 0
    lengths = batch["lengths"].tolist()
    for begin, end in pairwise(offsets):
        row, place = divmod(begin, batch["input_ids"].shape[1])
        last = min(end, begin - place + lengths[row])
        alone = model.get_output_embeddings()(states({"input_ids": ids[None, begin:last]}))[0]
        assert (logits[begin:last] - alone).abs().max() <= 5e-5
        num_documents, contexts = num_documents + 1, contexts + (batch["position_ids"][row, 1, place + 1] == 0)
    assert num_documents > len(lengths) and 0 < contexts < num_documents


def test_the_loss_of_a_batch_is_the_sum_over_its_documents(data, chatglm1_dir):
    model = load_model(chatglm1_dir, torch.float64)
    prepared = data(row_len=96)
    rows = [prepared.rows[i] for i in range(3)]

    def loss(batch):
        hidden = model.base_model(**model_inputs(batch, "sdpa")).last_hidden_state
        return next_token_loss(hidden, model.get_output_embeddings().weight, batch["labels"])

    total, targets = loss(collate(rows))
    each = [loss(collate([row])) for row in rows]
    torch.testing.assert_close(total, sum(one for one, _ in each), rtol=1e-6, atol=1e-6)
    assert targets.numel() == sum(labels.numel() for _, labels in each)


def test_all_tokens_of_the_documents_are_encoded_as_by_the_tokenizer(data, tokenizer, source):
    prepared = data(val_share=0)
    (store,) = prepared._stores["zh"]
    documents = [store.tokens[a:b].tolist() for a, b in zip(store.starts, store.starts[1:], strict=False)]
    texts = [json.loads(line)["text"] for line in Path(source.files[0]).read_text(encoding="utf-8").splitlines()]
    assert documents == [[*tokenizer.encode(text), tokenizer.eos_id] for text in dict.fromkeys(texts)]
    stretches = [prepared.rows.length(i) for i in range(len(prepared.rows))]
    assert prepared.ledger.facts["tokens"] - 2 * len(stretches) <= sum(stretches) <= len(stretches) * 64


def test_white_space_of_a_document_is_encoded_in_its_pieces(chatglm1_dir, tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    text = "第一行\n\t第二行    完"
    path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    loaded = PackedPretrainingData(
        str(chatglm1_dir), [TextSource("a", "zh", [str(path)])], 8, epochs=9, val_share=0, cache_dir=str(tmp_path / "c")
    )
    loaded.trainer = FakeTrainer()
    loaded.setup("fit")
    (store,) = loaded._stores["a"]
    assert tokenizer.decode(store.tokens.tolist()) == text
    (example,) = loaded.first_examples()
    assert example.ids == [*tokenizer.prefix_ids, *store.tokens[:6].tolist()]
    assert example.loss_mask == [False] * 2 + [True] * 6


def test_attention_is_counted_within_documents(data):
    batch = data().train_dataloader().batches[0]
    offsets, width = batch["document_offsets"].tolist(), batch["input_ids"].shape[1]
    ends = [begin // width * width + int(batch["lengths"][begin // width]) for begin in offsets[:-1]]
    lengths = [min(end, last) - begin for begin, end, last in zip(offsets, offsets[1:], ends, strict=False)]
    assert count_tokens(batch)[3] == sum(length**2 for length in lengths)


def test_the_fingerprint_depends_on_the_share_of_contexts(data):
    assert data().fingerprint == data(context_share=0.5).fingerprint != data(context_share=0.6).fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"isolate_documents": False},
            "`isolate_documents` is false, but the contexts of ChatGLM-6B's documents",
        ),
        ({"row_len": 7}, r"`row_len` \(7\) must be at least 8 for ChatGLM-6B"),
        ({"context_share": 1.5}, r"`context_share` \(1.5\) must be a share from 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, data):
    with pytest.raises(ValueError, match=message):
        data(**settings)


def test_a_share_of_contexts_is_refused_for_a_model_without_contexts(zero_dir, source, tmp_path):
    refused = PackedPretrainingData(str(zero_dir), [source], context_share=0.5, cache_dir=str(tmp_path))
    refused.trainer = FakeTrainer()
    for act in (refused.first_examples, lambda: refused.setup("fit")):
        with pytest.raises(
            ValueError, match=r"`context_share` is 0.5, but only documents of ChatGLM-6B have a context"
        ):
            act()
