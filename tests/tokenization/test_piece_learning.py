import pytest

from glmja.tokenization import huggingface
from glmja.tokenization.piece_learning import learn_pieces
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.training_corpus import is_joinable, read_corpus
from glmja.tokenization.vocabulary import append_pieces, check_premises


def learn(proto, documents, num_pieces, **options):
    return learn_pieces(read_corpus(proto, documents, **options), num_pieces).pieces


def tokens(tokenizer, texts):
    return sum(map(len, tokenizer.encode_batch(texts)))


def test_learned_pieces_meet_every_condition_and_shorten_japanese_only(base_tokenizer, texts):
    pieces = learn(base_tokenizer.proto, texts["ja"], 400)
    new = GLMTokenizer(append_pieces(base_tokenizer.proto, pieces))
    assert check_premises(base_tokenizer.proto, new.proto, "japanese") == []
    assert tokens(new, texts["ja"]) < 0.5 * tokens(base_tokenizer, texts["ja"])
    assert tokens(new, texts["zh"]) == tokens(base_tokenizer, texts["zh"])


def test_more_pieces_never_make_more_tokens(base_tokenizer, texts):
    pieces = learn(base_tokenizer.proto, texts["ja"], 500)
    counts = [
        tokens(GLMTokenizer(append_pieces(base_tokenizer.proto, pieces[:n])), texts["ja"]) for n in (0, 100, 300, 500)
    ]
    assert counts == sorted(counts, reverse=True)


def test_learning_is_reproducible(base_tokenizer, texts):
    once, again = (learn(base_tokenizer.proto, texts["ja"], 100) for _ in range(2))
    assert once == again


def test_pieces_are_learned_from_a_sample_of_a_large_corpus(base_tokenizer, texts):
    lines = texts["ja"] * 200
    pieces = learn(base_tokenizer.proto, lines, 50, max_tokens=150_000)
    assert len(set(pieces) & set(learn(base_tokenizer.proto, texts["ja"], 80))) >= 45
    assert pieces == learn(base_tokenizer.proto, lines, 50, max_tokens=150_000)


@pytest.mark.parametrize("separator", ["。", ""], ids=["sentences", "no sentence ends"])
def test_a_corpus_of_one_long_line_is_sampled_to_the_limit(base_tokenizer, texts, separator):
    line = separator.join(text.replace("\n", "").replace("。", separator) for text in texts["ja"] * 50)
    pieces = learn(base_tokenizer.proto, [line], 50, max_tokens=150_000)
    assert len(set(pieces) & set(learn(base_tokenizer.proto, [line], 80))) >= 40


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_not_positive_is_refused(base_tokenizer, limit):
    with pytest.raises(ValueError, match=rf"^`max_training_tokens` \({limit}\) must be at least 1$"):
        learn(base_tokenizer.proto, ["桜"], 1, max_tokens=limit)


def test_too_few_pieces_of_a_sample_ask_for_a_larger_sample(base_tokenizer, texts):
    message = r"^the sample of the corpus has only \d+ pieces .*; give more `max_training_tokens` or a smaller"
    with pytest.raises(ValueError, match=message):
        learn(base_tokenizer.proto, texts["ja"], 10, max_tokens=10)


def test_punctuation_is_joined_only_if_wanted(base_tokenizer, texts):
    assert any("。" in piece for piece in learn(base_tokenizer.proto, texts["ja"], 300))
    assert not any("。" in p for p in learn(base_tokenizer.proto, texts["ja"], 300, join_punctuation=False))
    assert not is_joinable(".", join_punctuation=True)


def test_frequent_kanji_beyond_the_basic_plane_become_pieces(base_tokenizer):
    text = "子を𠮟る。𠮷野家で𩸽を食べる。"
    pieces = learn(base_tokenizer.proto, [text + str(number) for number in range(20)], 15)
    assert {"𠮟", "𠮷", "𩸽"} <= set(pieces)
    new = GLMTokenizer(append_pieces(base_tokenizer.proto, pieces))
    assert check_premises(base_tokenizer.proto, new.proto, "japanese") == [] == huggingface.check(new)
    assert new.decode(new.encode(text)) == text
    assert not any(new.piece(i).startswith("<0xF0") for i in new.encode(text))


def test_the_error_for_a_small_corpus_names_the_number_of_available_pieces(base_tokenizer):
    with pytest.raises(ValueError, match=r"only 3 pieces to add under the policy 'japanese', fewer than the 10 asked"):
        learn(base_tokenizer.proto, ["の の 図"], 10)
