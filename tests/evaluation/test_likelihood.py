import math

import pytest
import torch

from glmja.errors import ModelError
from glmja.evaluation.likelihood import mean_kl, measure
from glmja.evaluation.rows import to_rows
from glmja.modeling.loading import load_model
from glmja.resize_embeddings import resize_embeddings


@pytest.fixture(scope="module")
def zero(zero_dir):
    return load_model(zero_dir, torch.float32)


@pytest.fixture(scope="module")
def base(base_dir):
    return load_model(base_dir, torch.float32)


@torch.no_grad()
def nats_by_hand(model, tokenizer, rows):
    total = 0.0
    for row in rows:
        log_probs = torch.log_softmax(model(torch.tensor([row.ids])).logits[0, :, : len(tokenizer)].double(), -1)
        total -= sum(log_probs[i - 1, row.ids[i]].item() for i in range(row.num_given, len(row.ids)))
    return total


@pytest.mark.parametrize(("batch_size", "stride"), [(1, None), (3, None), (8, None), (3, 8), (8, 30), (8, 1)])
def test_every_token_of_a_text_is_predicted_once(zero, tokenizer, base_tokenizer, texts, batch_size, stride):
    documents = [texts["ja"][0], texts["ja"][1][:60], "短い。", texts["en"][0][:300]]
    found, _ = measure(zero, tokenizer, documents, 32, batch_size, stride=stride, beside=[base_tokenizer])
    rows = [row for document in documents for row in to_rows(document, tokenizer, 32, stride, [base_tokenizer])]
    assert found.characters == sum(map(len, documents))
    assert found.documents == 4
    assert found.tokens == sum(len(tokenizer.encode(document)) for document in documents)
    assert found.nats == pytest.approx(nats_by_hand(zero, tokenizer, rows), rel=1e-5)
    assert found.bits_per_char == pytest.approx(found.nats / math.log(2) / found.characters)
    assert found.tokens_per_char == pytest.approx(found.tokens / found.characters)


def test_a_document_that_fits_has_the_same_likelihood_with_any_stride_and_beside_any_tokenizer(
    zero, tokenizer, base_tokenizer, texts
):
    documents = [text[:40] for text in texts["ja"][:3]]
    plain, _ = measure(zero, tokenizer, documents, 128, 4)
    for stride, beside in ((1, []), (64, [base_tokenizer]), (None, [base_tokenizer])):
        found, _ = measure(zero, tokenizer, documents, 128, 4, stride=stride, beside=beside)
        assert (found.tokens, found.nats) == (plain.tokens, plain.nats)


def test_progress_counts_all_characters(zero, tokenizer, texts):
    counts = []
    measure(zero, tokenizer, texts["zh"][:3], 32, 2, stride=16, on_characters=counts.append)
    encoded = [token_id for text in texts["zh"][:3] for token_id in tokenizer.encode(text)]
    assert sum(counts) == sum(tokenizer.num_characters[token_id] for token_id in encoded)


def test_the_first_rows_are_kept_for_any_batch_size(zero, tokenizer, texts):
    kept = [measure(zero, tokenizer, texts["zh"][:6], 32, size, keep=100)[1] for size in (1, 4)]
    assert (
        kept[0].ids
        == kept[1].ids
        == [r.ids for d in texts["zh"][:6] for r in to_rows(d, tokenizer, 32)][: len(kept[0].ids)]
    )
    assert 100 <= sum(map(len, kept[0].states)) < 100 + 32
    assert sum(map(len, kept[0].states)) == sum(len(row) - len(tokenizer.prefix_ids) for row in kept[0].ids)
    torch.testing.assert_close(*(torch.cat(one.states) for one in kept))


def test_the_divergence_follows_its_definition(base, base_tokenizer, zero, tokenizer, texts):
    document = texts["zh"][0][:60]
    pairs = ((base, base_tokenizer), (zero, tokenizer))
    old, new = (measure(model, t, [document], 128, 1, keep=1000)[1] for model, t in pairs)
    row = to_rows(document, base_tokenizer, 128)[0].ids
    with torch.no_grad():
        p, q = (torch.softmax(model(torch.tensor([row])).logits[0, 1:-1, : len(t)].double(), -1) for model, t in pairs)
    expected = (p * (p.log() - q[:, : len(base_tokenizer)].log())).sum(-1).mean().item()
    assert mean_kl(old, new) == (pytest.approx(expected, rel=1e-4), len(row) - 2)
    assert mean_kl(old, old)[0] == pytest.approx(0, abs=1e-6)


def test_mean_initialization_bounds_the_divergence_from_the_base(
    base, base_dir, base_tokenizer, tokenizer_dir, tokenizer, texts, tmp_path
):
    resize_embeddings(str(base_dir), str(tokenizer_dir), str(tmp_path / "zero"), init="mean", check_greedy=False)
    zero = load_model(tmp_path / "zero", torch.float32)
    old = measure(base, base_tokenizer, texts["zh"][:8], 64, 8, keep=2000)[1]
    new = measure(zero, tokenizer, texts["zh"][:8], 64, 8, keep=2000)[1]
    added = len(tokenizer) - len(base_tokenizer)
    assert 0 < mean_kl(old, new)[0] <= math.log(1 + added / len(base_tokenizer)) + 1e-4


def test_rows_that_are_tokenized_differently_are_skipped(base, base_tokenizer, zero, tokenizer, texts):
    alone, mixed = texts["zh"][:2], [texts["zh"][0], "おにぎり", texts["zh"][1]]
    pairs = ((base, base_tokenizer), (zero, tokenizer))
    kept = {n: [measure(m, t, docs, 64, 8, keep=999)[1] for m, t in pairs] for n, docs in (("a", alone), ("m", mixed))}
    (expected, num_alone), (found, num_mixed) = mean_kl(*kept["a"]), mean_kl(*kept["m"])
    assert found == pytest.approx(expected, rel=1e-4) and num_alone == num_mixed > 0
    japanese = [measure(m, t, texts["ja"][:1], 64, 8, keep=100)[1] for m, t in pairs]
    assert mean_kl(*japanese) == (None, 0)
    with pytest.raises(ValueError, match="the old model has 3109 ids, the new one only 2509"):
        mean_kl(*reversed(kept["a"]))


def test_a_likelihood_that_is_not_finite_is_rejected(zero_dir, tokenizer, texts):
    model = load_model(zero_dir, torch.float32)
    model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(
        ModelError,
        match=r"the log-likelihood of a text is nan nats; the weights are damaged .* \(set `dtype` to float32\)",
    ):
        measure(model, tokenizer, texts["zh"][:1], 64, 8)
