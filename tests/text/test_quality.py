import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.text.quality import failure_of, repetition_rate, script_shares, simplified_only_share
from glmja.text.scripts import is_simplified_only


def test_a_text_without_repeats_has_rate_0_and_a_loop_nearly_1():
    assert repetition_rate("いろはにほへと") == 0
    assert repetition_rate([7] * 100) == 1 - 1 / 97


def test_the_rate_is_one_minus_distinct_over_all_ngrams():
    assert repetition_rate("abcabc", n=2) == 1 - 3 / 5  # ab bc ca ab bc
    assert repetition_rate([1, 2, 3, 1, 2, 3], n=2) == 1 - 3 / 5


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_the_rate_is_a_share_and_repeating_the_text_does_not_lower_it(tokens, n):
    assert 0 <= repetition_rate(tokens, n) <= 1
    assert repetition_rate(tokens * 2, n) >= repetition_rate(tokens, n)


def test_fewer_tokens_than_an_ngram_do_not_repeat():
    assert repetition_rate("") == repetition_rate("ああ") == 0


def test_n_must_be_at_least_1():
    with pytest.raises(ValueError, match=r"n \(0\) must be at least 1"):
        repetition_rate("abc", n=0)


@pytest.mark.parametrize("character", "们这说关达运门东吗过还")
def test_forms_used_only_in_mainland_china_are_simplified_only(character):
    assert is_simplified_only(character)


@pytest.mark.parametrize("character", "国学会里后没東國図働你她很あアー。a々〇")
def test_characters_of_japanese_or_traditional_chinese_are_not_simplified_only(character):
    assert not is_simplified_only(character)


def test_the_share_is_over_han_characters_only():
    assert simplified_only_share("说abcあ国") == 0.5
    assert simplified_only_share("我们这说") == 0.75
    assert simplified_only_share("かな and ASCII") == simplified_only_share("") == 0


def test_japanese_text_has_hardly_any_simplified_only_characters_and_chinese_many(texts):
    assert simplified_only_share("".join(texts["ja"])) < 0.001
    assert simplified_only_share("".join(texts["zh"])) > 0.15


@pytest.mark.parametrize(
    ("text", "lang", "purity", "latin", "simplified_only"),
    [
        ("これはペンです。", "ja", 1, 0, None),
        ("私は学生です", "ja", 1, 0, 0),
        ("人々は〆切を守る", "ja", 1, 0, 0),
        ("这是测试", "ja", 1 / 4, 0, 3 / 4),  # Japanese uses 是, too
        ("这是测试", "zh", 1, 0, 3 / 4),
        ("我喜欢の猫", "zh", 4 / 5, 0, 1 / 4),
        ("Python を使う", "ja", 3 / 9, 6 / 9, 0),
        ("Python を使う", "zh", 1 / 9, 6 / 9, 0),
        ("I do not know.", "ja", 0, 1, None),
        ("abc说", "en", 3 / 4, 3 / 4, 1),
        ("Ωmega", "en", 4 / 5, 4 / 5, None),
        ("12。！", "ja", None, None, None),
        ("", "zh", None, None, None),
    ],
)
def test_shares_of_scripts_are_over_letters_and_absent_without_them(text, lang, purity, latin, simplified_only):
    assert vars(script_shares(text, lang)) == {
        "purity": purity if purity is None else pytest.approx(purity),
        "latin": latin if latin is None else pytest.approx(latin),
        "simplified_only": simplified_only if simplified_only is None else pytest.approx(simplified_only),
    }


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n\u3000\u200b", "blank"),
        ("。", None),
        ("はい。", None),
        ("ははははは、面白いですね。", None),
        ("答えは" + "------------------", None),
        ("A" * 24, "looping"),
        ("A" * 23, None),
        ("はじめに、" + "今日は" * 8, "looping"),
        ("はじめに、" + "今日は" * 8 + "今", "looping"),  # cut off by the maximum number of tokens
        ("はじめに、" + "今日は" * 8 + "\n", "looping"),
        ("今日は" * 8 + "良い天気です。", None),
        ("これは長い文章です。" * 3, None),
        ("これは長い文章です。" * 4, "looping"),
    ],
)
def test_empty_blank_and_looping_texts_are_recognized(text, failure):
    assert failure_of(text) == failure


@given(st.text("あいう", min_size=6, max_size=20), st.text("えお", max_size=9), st.integers(4, 6))
def test_a_text_that_ends_with_four_repetitions_of_a_sentence_is_a_loop(sentence, start, repeats):
    assert failure_of(start + sentence * repeats) == "looping"


def test_no_shipped_text_is_a_failure(texts):
    assert {failure_of(text) for documents in texts.values() for text in documents} == {None}
