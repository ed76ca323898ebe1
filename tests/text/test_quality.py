import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.text.quality import repetition_rate, script_purity, simplified_only_share
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
    ("text", "lang", "purity"),
    [
        ("これはペンです。", "ja", 1.0),
        ("私は学生です", "ja", 1.0),
        ("这是测试", "ja", 0.25),  # Japanese uses 是, too
        ("我喜欢の猫", "zh", 0.8),
        ("Python を使う", "zh", 7 / 9),
        ("abc说", "en", 0.75),
        ("Ωmega", "en", 0.8),
        ("12。！", "ja", 1.0),
        ("", "zh", 1.0),
    ],
)
def test_script_purity_is_the_share_of_letters_in_scripts_of_the_language(text, lang, purity):
    assert script_purity(text, lang) == pytest.approx(purity)
