import unicodedata

import pytest

from glmja.text import corpus_survey
from glmja.text.corpus_survey import CorpusSurvey


def read(documents, **options):
    survey = CorpusSurvey(**options)
    return list(survey.read(documents)), survey


def test_a_repeated_line_counts_once_and_is_reported():
    documents = [
        "駅まで歩く。\nページの先頭へ",
        "雨が降る。\n\nページの先頭へ",
        "ページの先頭へ",
        "駅まで歩く。\nページの先頭へ",
    ]
    kept, survey = read(documents)
    assert kept == ["駅まで歩く。\nページの先頭へ", "雨が降る。\n"]
    assert (survey.documents, survey.repeated_documents) == (4, 1)
    assert (survey.lines, survey.repeated_lines) == (7, 4)
    assert survey.repeated_share == (3 * 7 + 6) / (4 * 7 + 3 * 6 - 1)
    assert read(documents, once=False)[0] == documents


def test_decomposed_characters_are_counted_and_composed_only_on_request():
    text = "だからガラスが割れた。神"  # NFC replaces the last one, a compatibility ideograph, but it is not decomposed
    decomposed = unicodedata.normalize("NFD", text[:-1]) + text[-1]
    kept, survey = read([decomposed, "雨。", text])
    assert kept == [decomposed, "雨。", text]
    assert (survey.decomposed_characters, survey.decomposed_documents) == (3, 1)
    kept, survey = read([decomposed], compose=True)
    assert kept == [unicodedata.normalize("NFC", text)]
    assert survey.decomposed_characters == 3


def test_markup_is_counted_and_only_that_of_aozora_is_stripped():
    text = (
        "主人《あるじ》［＃改ページ］\n== 歴史 ==\n[[東京]]は'''都'''である{{要出典}}<br/>&nbsp;<a href='x'>a</a> a < b"
    )
    kept, survey = read([text])
    assert kept == [text]
    assert (survey.aozora_marks, survey.wiki_marks, survey.html_marks) == (2, 5, 4)
    kept, survey = read([text, "［＃改ページ］"], strip_markup=True)
    assert kept == [text.replace("《あるじ》［＃改ページ］", "")]
    assert survey.aozora_marks == 3


def test_shares_of_scripts_are_of_all_but_white_space():
    _, survey = read(["かカ漢们 a한1。"])
    assert survey.scripts() == {
        "kana": 0.25,
        "ideographs": 0.125,
        "simplified Chinese only": 0.125,
        "Latin letters": 0.125,
        "other letters": 0.125,
        "digits and marks": 0.25,
    }


def test_shares_of_a_long_corpus_are_those_of_a_sample(monkeypatch):
    monkeypatch.setattr(corpus_survey, "_ALL_CHARACTERS", 1_000)
    _, survey = read([f"あ{number}a" for number in range(10_000)], once=False)
    assert survey.scripts()["kana"] == pytest.approx(10_000 / survey.characters, rel=0.02)
