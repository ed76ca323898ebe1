import numpy as np
import pytest

from glmja.tokenization import learning_curve, piece_learning
from glmja.tokenization.learning_curve import LearningCurve
from glmja.tokenization.piece_learning import learn_pieces
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.training_corpus import read_corpus
from glmja.tokenization.vocabulary import append_pieces


@pytest.fixture
def blocks_of_100(monkeypatch):
    for module in (learning_curve, piece_learning):
        monkeypatch.setattr(module, "BLOCK", 100)


@pytest.fixture
def lines(texts):
    return [line for text in texts["ja"] for line in text.split("\n") if line.strip()][:300]


def num_tokens(tokenizer, lines):
    return sum(map(len, tokenizer.encode_batch(lines)))


def test_the_curve_counts_the_tokens_that_the_pieces_give(base_tokenizer, lines, blocks_of_100):
    selected = learn_pieces(read_corpus(base_tokenizer.proto, lines), 250)
    curve = selected.curve
    assert curve.num_characters == sum(map(len, lines))
    assert curve.num_tokens == num_tokens(base_tokenizer, lines)
    assert len(selected.pieces) == 250
    assert len(curve.gains) == 350
    rows = curve.rows()
    assert [row["pieces"] for row in rows] == [0, 100, 200, 250]
    for row in rows:
        new = GLMTokenizer(append_pieces(base_tokenizer.proto, selected.pieces[: row["pieces"]]))
        assert row["tokens_per_character"] == num_tokens(new, lines) / curve.num_characters
    assert 1 - rows[1]["tokens_per_character"] / rows[0]["tokens_per_character"] == pytest.approx(
        rows[0]["gain_of_next"]
    )


def test_rarely_used_pieces_are_counted_as_the_finished_tokenizer_uses_them(base_tokenizer, lines, blocks_of_100):
    selected = learn_pieces(read_corpus(base_tokenizer.proto, lines), 300)
    new = GLMTokenizer(append_pieces(base_tokenizer.proto, selected.pieces))
    ids = np.concatenate(new.encode_batch(lines))
    uses = np.bincount(ids, minlength=len(new))[new.new_ids.start :]
    assert selected.curve.num_rare == int((uses < 10).sum()) > 0


@pytest.mark.parametrize("min_gain", [0.01, 0.03, 0.1])
def test_auto_stops_where_the_next_block_saves_too_little(base_tokenizer, lines, blocks_of_100, min_gain):
    selected = learn_pieces(read_corpus(base_tokenizer.proto, lines), None, min_gain)
    rows = selected.curve.rows()
    assert len(rows) > 1
    assert all(row["gain_of_next"] >= min_gain for row in rows[:-1])
    assert rows[-1]["gain_of_next"] is None or rows[-1]["gain_of_next"] < min_gain
    again = learn_pieces(read_corpus(base_tokenizer.proto, lines), len(selected.pieces))
    assert again.pieces == selected.pieces
    assert again.curve.num_rare == selected.curve.num_rare


def test_a_corpus_whose_first_pieces_save_too_little_is_refused(base_tokenizer, lines):
    with pytest.raises(
        ValueError, match=r"the first \d+ pieces save less than `min_gain` \(0.99\) of the tokens; give"
    ):
        learn_pieces(read_corpus(base_tokenizer.proto, lines), None, 0.99)


def test_the_whole_corpus_is_learned_if_every_block_saves_enough(base_tokenizer, lines):
    selected = learn_pieces(read_corpus(base_tokenizer.proto, lines[:50]), None, 1e-9)
    with pytest.raises(ValueError, match=rf"only {len(selected.pieces)} pieces"):
        learn_pieces(read_corpus(base_tokenizer.proto, lines[:50]), len(selected.pieces) + 1)
    assert selected.curve.rows()[-1]["gain_of_next"] is None


@pytest.mark.parametrize("min_gain", [0, -0.1, 1, float("nan")])
def test_a_gain_that_is_no_share_is_refused(base_tokenizer, min_gain):
    with pytest.raises(ValueError, match=r"^`min_gain` \(.*\) must be between 0 and 1$"):
        learn_pieces(read_corpus(base_tokenizer.proto, ["桜が咲く"]), None, min_gain)


def test_excluded_texts_are_replaced_by_the_next_pieces(base_tokenizer, lines):
    every = learn_pieces(read_corpus(base_tokenizer.proto, lines), 200).pieces
    exclude = set(every[50:100])
    kept = learn_pieces(read_corpus(base_tokenizer.proto, lines), 200, exclude=exclude).pieces
    assert len(kept) == 200
    assert not exclude & set(kept)
    assert kept[:50] == every[:50]


def test_a_curve_without_further_pieces_has_no_next_gain():
    curve = LearningCurve(num_characters=10, num_tokens=20, gains=[4, 2], num_selected=2, num_rare=0)
    assert curve.rows() == [
        {"pieces": 0, "tokens_per_character": 2.0, "gain_of_next": pytest.approx(0.3)},
        {"pieces": 2, "tokens_per_character": 1.4, "gain_of_next": None},
    ]
