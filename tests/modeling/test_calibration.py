import pytest
import torch
from torch.nn.functional import cross_entropy

from glmja.errors import DataError
from glmja.modeling import calibration
from glmja.modeling.batch import pad_sequences
from glmja.modeling.calibration import calibrate
from glmja.modeling.loading import load_model
from glmja.tokenization.vocabulary import isolated_processor


@pytest.fixture(scope="module")
def spelled(base_tokenizer, tokenizer):
    pieces = list(tokenizer.proto.pieces)[len(base_tokenizer) :]
    return isolated_processor(base_tokenizer.proto).encode([piece.piece for piece in pieces])


@pytest.fixture(scope="module")
def short_texts(texts):
    return [text[:40] for text in texts["ja"][:6]]


@pytest.fixture(scope="module")
def model(base_dir, base_tokenizer, short_texts):
    """The base after some steps on the texts: a random one finds all spellings unlikely, so that all shares are 0.9."""
    model = load_model(base_dir, torch.float32)
    ids_BT = pad_sequences([[*base_tokenizer.prefix_ids, *base_tokenizer.encode(text)] for text in short_texts], 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(25):
        logits_BTV = model(ids_BT).logits[:, :-1]
        cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), ignore_index=0).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def plain_shares(model, tokenizer, spelled, documents):
    """λ of each piece, position by position, for documents that fit into a row; and the occurrences."""
    num_old = len(tokenizer) - len(spelled)
    rest, gap = ([[] for _ in spelled] for _ in range(2))
    for document in documents:
        ids = [*tokenizer.prefix_ids]
        for token_id in tokenizer.encode(document):
            spelling = spelled[token_id - num_old] if token_id >= num_old else [token_id]
            if token_id >= num_old:
                logits_TV = model(torch.tensor([ids + spelling])).logits[0, :, :num_old].double()
                log_probs_TV, at = logits_TV.log_softmax(-1), len(ids)
                rest[token_id - num_old].append(-sum(log_probs_TV[at + i, t] for i, t in enumerate(spelling[1:])))
                gap[token_id - num_old].append(logits_TV[at - 1, spelling[0]] - logits_TV[at - 1].mean())
            ids += spelling
    total = sum(map(len, rest))
    priors = [sum(map(sum, sums)) / total for sums in (rest, gap)]
    shares = []
    for costs, gaps in zip(rest, gap, strict=True):
        c, g = ((sum(found) + 2 * prior) / (len(found) + 2) for found, prior in zip((costs, gaps), priors, strict=True))
        shares.append(min(max(float(c / max(g, 0.5)), 0.0), 0.9))
    return shares, [len(found) for found in rest]


@pytest.mark.parametrize(("batch", "chunk"), [(8, 512), (1, 512), (3, 5)])
def test_shares_are_those_of_a_plain_computation(model, tokenizer, spelled, short_texts, monkeypatch, batch, chunk):
    monkeypatch.setattr(calibration, "_BATCH_SIZE", batch)
    monkeypatch.setattr(calibration, "_CHUNK_LEN", chunk)
    found = calibrate(model, tokenizer, spelled, short_texts, 10**6)
    shares, occurrences = plain_shares(model, tokenizer, spelled, short_texts)
    assert found.occurrences == occurrences and sum(count > 0 for count in occurrences) > 30
    assert found.mean_shares == pytest.approx(shares, abs=1e-4)
    assert len(set(found.mean_shares)) > 10 and all(0 <= share <= 0.9 for share in found.mean_shares)


def test_the_same_text_gives_the_same_shares(model, tokenizer, spelled, short_texts):
    first, second = (calibrate(model, tokenizer, spelled, short_texts, 10**6) for _ in range(2))
    assert first.mean_shares == second.mean_shares


def test_rows_hold_every_token_once_and_split_no_piece(tokenizer, base_tokenizer, spelled, texts):
    rows = list(calibration._to_rows(texts["ja"][:5], tokenizer, spelled, 64))
    assert len(rows) > 5 and all(len(row.ids) <= 64 for row in rows)
    prefix, num_old, found = tokenizer.prefix_ids, len(base_tokenizer), []
    for row in rows:
        assert row.ids[: len(prefix)] == prefix and max(row.ids) < num_old
        for piece, start, end in row.pieces:
            assert row.ids[start:end] == spelled[piece]
            found.append(num_old + piece)
    ids = [token_id for text in texts["ja"][:5] for token_id in tokenizer.encode(text)]
    assert found == [token_id for token_id in ids if token_id >= num_old]
    read = [token_id for row in rows for token_id in row.ids[len(prefix) :]]
    assert read == [t for i in ids for t in (spelled[i - num_old] if i >= num_old else [i])]


def test_no_more_tokens_are_read_than_asked_for(model, tokenizer, spelled, texts):
    counts, estimates, left = [], [], iter(texts["ja"])
    found = calibrate(model, tokenizer, spelled, left, 300, counts.append, estimates.append)
    assert 300 <= found.tokens == sum(counts) < 300 + 512
    assert len(estimates) == 1 and estimates[0] > 0
    assert next(left)  # documents that are not needed are not read


def test_a_text_without_new_pieces_is_refused(model, tokenizer, spelled, texts):
    with pytest.raises(DataError, match=r"no new piece of the tokenizer occurs in the \d+ tokens of `text`"):
        calibrate(model, tokenizer, spelled, [texts["zh"][0][:50]], 10**6)
    with pytest.raises(DataError, match=r"in the 0 tokens of `text` after those of the check"):
        calibrate(model, tokenizer, spelled, [], 10**6)
