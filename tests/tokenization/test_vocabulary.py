import re

import pytest
from hypothesis import given

from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import (
    POLICIES,
    Piece,
    append_pieces,
    check_premises,
    contains_distinguishing,
    is_admissible,
    parse_proto,
    unreachable_pieces,
)
from tests.support.strategies import TEXT


@pytest.mark.parametrize(
    ("character", "policies"),
    [
        ("の", {"kana", "shinjitai", "japanese"}),
        ("ー", {"kana", "shinjitai", "japanese"}),
        ("ｶ", {"kana", "shinjitai", "japanese"}),
        ("図", {"shinjitai", "japanese"}),  # only Japan writes it so
        ("気", {"shinjitai", "japanese"}),
        ("東", {"japanese"}),  # traditional Chinese has it too
        ("学", set()),  # simplified Chinese has it too
        ("・", set()),  # in Chinese names
        ("〇", set()),  # in Chinese numbers
        ("々", set()),
        ("、", set()),
        ("a", set()),
        ("é", set()),
    ],
)
def test_a_character_distinguishes_under_a_policy_if_the_protected_text_never_has_it(character, policies):
    assert {p for p in POLICIES if p != "none" and contains_distinguishing(character, p)} == policies


@pytest.mark.parametrize("policy", ["kana", "shinjitai", "japanese"])
@pytest.mark.parametrize("piece", ["16", "▁", "▁東", "の▁", "▁▁の", "▁aの", "aの", "の ", "学校", "、「"])
def test_ascii_spaces_and_shared_characters_are_never_admissible(piece, policy):
    assert not is_admissible(piece, policy)
    assert is_admissible(piece, "none")


@pytest.mark.parametrize("policy", ["kana", "shinjitai", "japanese", "none"])
def test_a_piece_may_begin_with_a_space_if_it_has_a_kana(policy):
    assert is_admissible("▁の", policy)
    assert is_admissible("▁東の", policy)


def test_appended_scores_stay_distinct_below_all_others_and_in_order(base_tokenizer):
    grown = append_pieces(base_tokenizer.proto, ["のは", "です", "ます"])
    scores = [p.score for p in grown.pieces][-3:]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < min(p.score for p in base_tokenizer.proto.pieces)
    assert list(grown.pieces)[:-3] == list(base_tokenizer.proto.pieces)


def test_a_piece_that_no_merges_lead_to_is_unreachable(base_tokenizer):
    grown = append_pieces(base_tokenizer.proto, ["ゑ", "ヱ", "ゑヱゑ", "ゑヱ"])
    assert unreachable_pieces(grown, len(base_tokenizer)) == []
    grown = append_pieces(base_tokenizer.proto, ["ゑ", "ヱ", "ゑヱゑ"])
    assert unreachable_pieces(grown, len(base_tokenizer)) == ["ゑヱゑ"]


@pytest.mark.parametrize("policy", ["kana", "shinjitai", "japanese"])
def test_text_without_distinguishing_characters_keeps_its_ids(base_tokenizer, policy):
    pieces = [
        p
        for p in ["のは", "図書", "図", "東西", "東", "です", "で", "す", "▁の", "▁図", "▁です"]
        if is_admissible(p, policy)
    ]
    new = GLMTokenizer(append_pieces(base_tokenizer.proto, pieces))

    @given(TEXT)
    def law(text):
        if not contains_distinguishing(text, policy):
            assert new.encode(text) == base_tokenizer.encode(text)

    law()


def damaged(proto, change):
    copy = parse_proto(proto.SerializeToString())
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.pieces[300], "score", 1.0), r"piece 300 was .* with score"),
        (lambda m: setattr(m.pieces[300], "piece", "x9"), r"piece 300 was .* now 'x9'"),
        (lambda m: m.pieces.pop(-1) and m.pieces.pop(-1) and m.pieces.pop(-1), "old pieces are missing"),
        (lambda m: setattr(m.normalizer_spec, "add_dummy_prefix", False), "the normalizer changed"),
        (lambda m: setattr(m.pieces[-1], "type", Piece.USER_DEFINED), "is neither a normal piece nor a control token"),
        (lambda m: setattr(m.pieces[-1], "piece", "中国"), "'中国' is not admissible"),
        (lambda m: setattr(m.pieces[-1], "score", 0.0), "outranks an old piece"),
        (lambda m: setattr(m.pieces[-1], "piece", m.pieces[-2].piece), "two pieces are equal"),
        (lambda m: setattr(m.pieces[-1], "score", m.pieces[-2].score), "the same score"),
        (lambda m: setattr(m.pieces[-1], "piece", "ゑヱゑ"), "'ゑヱゑ' is unreachable"),
    ],
)
def test_every_premise_of_the_theorem_is_read_off_the_finished_model(base_tokenizer, change, message):
    new = append_pieces(base_tokenizer.proto, ["ゑ", "ヱ"])
    assert check_premises(base_tokenizer.proto, new, "japanese") == []
    failures = check_premises(base_tokenizer.proto, damaged(new, change), "japanese")
    assert any(re.search(message, failure) for failure in failures), failures


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x0a\xff\xff\xff"])
def test_a_file_that_is_not_a_sentencepiece_model_is_refused(content):
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        parse_proto(content)
