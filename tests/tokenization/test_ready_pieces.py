import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from glmja.errors import DataError
from glmja.tokenization import huggingface
from glmja.tokenization.piece_files import read_pieces
from glmja.tokenization.piece_learning import learn_pieces
from glmja.tokenization.ready_pieces import ready_pieces
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.training_corpus import read_corpus
from glmja.tokenization.vocabulary import append_pieces, check_premises, is_admissible, unreachable_pieces


def tokens(tokenizer, texts):
    return sum(map(len, tokenizer.encode_batch(texts)))


@pytest.fixture(scope="module")
def ja_model(tmp_path_factory, texts):
    """A Japanese vocabulary trained by itself, as the known recipe does."""
    model = io.BytesIO()
    lines = [line for text in texts["ja"] for line in text.split("\n") if line]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=3000, model_type="bpe", minloglevel=2
    )
    path = tmp_path_factory.mktemp("pieces") / "ja.model"
    path.write_bytes(model.getvalue())
    return path


def test_ready_pieces_are_filtered_reachable_and_complete(base_tokenizer, ja_model):
    selected = ready_pieces(base_tokenizer.proto, ja_model, 500)
    pieces, rejected = selected.pieces, selected.rejected
    assert selected.num_present > 0  # punctuation, Latin letters, ideographs
    assert len(pieces) == len(set(pieces)) == 500
    assert all(is_admissible(piece, "japanese") for piece in pieces)
    assert rejected and not any(is_admissible(piece, "japanese") for piece in rejected)
    grown = append_pieces(base_tokenizer.proto, pieces)
    assert unreachable_pieces(grown, len(base_tokenizer)) == []
    present = {p.piece for p in grown.pieces}
    assert all(character in present for piece in pieces for character in piece)


def test_learned_pieces_shorten_text_more_than_ready_ones(base_tokenizer, ja_model, texts):
    ready = ready_pieces(base_tokenizer.proto, ja_model, 500).pieces
    corpus = read_corpus(base_tokenizer.proto, texts["ja"], join_punctuation=False)
    learned = learn_pieces(corpus, 500).pieces
    ours, theirs = (GLMTokenizer(append_pieces(base_tokenizer.proto, pieces)) for pieces in (learned, ready))
    assert tokens(ours, texts["ja"]) < tokens(theirs, texts["ja"])


def test_too_many_ready_pieces_are_refused(base_tokenizer, ja_model):
    with pytest.raises(ValueError, match=r"ja.model has only \d+ reachable pieces .* fewer than the 9999 asked for"):
        ready_pieces(base_tokenizer.proto, ja_model, 9999)


def test_a_model_that_is_none_is_refused(base_tokenizer, tmp_path):
    (tmp_path / "x.model").write_text("no model")
    with pytest.raises(ValueError, match=r"x.model: not a SentencePiece model"):
        ready_pieces(base_tokenizer.proto, tmp_path / "x.model", 1)


def test_all_admissible_pieces_that_can_be_reached_are_taken_by_default(base_tokenizer, ja_model):
    every = ready_pieces(base_tokenizer.proto, ja_model)
    assert ready_pieces(base_tokenizer.proto, ja_model, len(every.pieces)).pieces == every.pieces
    with pytest.raises(ValueError, match="fewer than the"):
        ready_pieces(base_tokenizer.proto, ja_model, len(every.pieces) + 1)
    admitted = {p for p in read_pieces(ja_model) if is_admissible(p, "japanese")}
    old = {p.piece for p in base_tokenizer.proto.pieces}
    assert {*every.pieces, *every.unreachable} == admitted - old
    assert not set(every.pieces) & set(every.unreachable)


WORDS = ["こんにちは", "ありがとうございます", "東京タワー", "図書館で", "ワタシハ", "です", "hello", "学校", "です"]


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n\n", encoding="utf-8")
    return tmp_path / "words.txt"


@pytest.mark.parametrize("policy", ["japanese", "kana"])
def test_the_words_of_a_list_are_reached_by_added_steps(base_tokenizer, words, policy):
    selected = ready_pieces(base_tokenizer.proto, words, policy=policy)
    new = GLMTokenizer(append_pieces(base_tokenizer.proto, selected.pieces))
    assert check_premises(base_tokenizer.proto, new.proto, policy) == [] == huggingface.check(new)
    admissible = {word for word in WORDS if is_admissible(word, policy)}
    assert set(selected.rejected) == {"hello", "学校"} - {p.piece for p in base_tokenizer.proto.pieces}
    assert admissible <= {*selected.pieces, *selected.unreachable}
    assert {"こんにちは", "ありがとうございます", "ワタシハ", "です"} <= set(selected.pieces)
    assert selected.num_steps == len(set(selected.pieces) - admissible) > 0
    for word in admissible & set(selected.pieces):
        assert len(new.encode(word)) <= 2  # the space before it, and the word


@settings(max_examples=30)
@given(st.lists(st.text(st.sampled_from("あいう東学図"), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_random_list_of_words_meets_the_premises(base_tokenizer, tmp_path_factory, listed):
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(listed), encoding="utf-8")
    try:
        selected = ready_pieces(base_tokenizer.proto, path)
    except DataError:
        return
    grown = append_pieces(base_tokenizer.proto, selected.pieces)
    assert check_premises(base_tokenizer.proto, grown, "japanese") == []


def test_a_list_without_an_admissible_word_is_refused(base_tokenizer, tmp_path):
    (tmp_path / "words.txt").write_text("hello\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words.txt has only 0 reachable pieces .* 'japanese', fewer than one$"):
        ready_pieces(base_tokenizer.proto, tmp_path / "words.txt")
