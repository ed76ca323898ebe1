import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from glmja.text.overlap import Overlap, overlap, segmenter

JA = ["長編映画とは、どのようなものですか？", "ラクダはこぶに脂肪をためています。"]
JA_ANSWERS = ["長編映画とは、長い映画のことです。", "ラクダは水をためています。"]


@pytest.mark.parametrize("segmentation", ["characters", "words"])
@pytest.mark.parametrize(
    ("lang", "text"), [("ja", JA[0]), ("zh", "我喜欢北京烤鸭，你呢？"), ("en", "The naïve cat's 2 hats.")]
)
def test_a_text_overlaps_fully_with_itself_and_segmentation_loses_nothing(lang, text, segmentation):
    segment = segmenter(lang, segmentation)
    assert "".join(segment(text)) == "".join(text.split())
    assert vars(overlap([text], [text], segment)) == pytest.approx(vars(Overlap(100, 100, 100, 100)))


def test_segmentation_into_words_and_characters():
    assert segmenter("ja", "words")("長編映画とは何ですか") == ["長編", "映画", "と", "は", "何", "です", "か"]
    assert segmenter("zh", "words")("我喜欢北京") == ["我", "喜欢", "北京"]
    assert segmenter("zh", "characters")("我用Python3写") == ["我", "用", "Python3", "写"]
    assert segmenter("en", "words")("Don't stop.") == ["Don", "'", "t", "stop", "."]


@pytest.mark.parametrize("segmentation", ["characters", "words"])
def test_bleu_equals_sacrebleus(segmentation):
    segment = segmenter("ja", segmentation)
    split = [[" ".join(segment(text)) for text in texts] for texts in (JA_ANSWERS, JA)]
    theirs = BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(split[0], [split[1]]).score
    assert overlap(JA_ANSWERS, JA, segment).bleu4 == pytest.approx(theirs, abs=1e-3)
    assert theirs > 1


def test_rouge_is_lins_definition():
    # 6 and 8 characters: 5 in common, all in order; of 5 and 7 pairs 2 in common
    found = overlap(["私は猫が好き"], ["私は大の猫好きだ"], segmenter("ja", "characters"))
    assert found.rouge1 == pytest.approx(100 * 2 * 5 / (6 + 8))
    assert found.rougeL == pytest.approx(100 * 2 * 5 / (6 + 8))
    assert found.rouge2 == pytest.approx(100 * 2 * 2 / (5 + 7))


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=4))
def test_scores_are_percentages_and_rouge_is_symmetric(pairs):
    ours, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    segment = segmenter("ja", "characters")
    found, swapped = overlap(ours, theirs, segment), overlap(theirs, ours, segment)
    assert all(0 <= value <= 100.001 for value in vars(found).values())
    assert found.rougeL == pytest.approx(swapped.rougeL)


def test_candidates_and_references_must_be_pairs():
    for candidates, references in (([], []), (["a"], [])):
        with pytest.raises(ValueError, match=r"must be non-empty and of equal length, got \d and 0"):
            overlap(candidates, references, str.split)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(ValueError, match=r"segmentation of zh into words needs: pip install jieba 'sacrebleu\[ja\]'"):
        segmenter("zh", "words")
