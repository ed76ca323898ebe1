import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from glmja.text.overlap import Overlap, overlap, segmenter, signatures

JA = ["長編映画とは、どのようなものですか？", "ラクダはこぶに脂肪をためています。"]
JA_ANSWERS = ["長編映画とは、長い映画のことです。", "ラクダは水をためています。"]


@pytest.mark.parametrize("segmentation", ["characters", "words"])
@pytest.mark.parametrize(
    ("lang", "text"), [("ja", JA[0]), ("zh", "我喜欢北京烤鸭，你呢？"), ("en", "The naïve cat's 2 hats.")]
)
def test_a_text_overlaps_fully_with_itself_and_segmentation_loses_nothing(lang, text, segmentation):
    segment = segmenter(lang, segmentation)
    assert "".join(segment(text)) == "".join(text.split())
    assert vars(overlap([text], [text], segment)) == pytest.approx(vars(Overlap(100, 100, 100, 100, 100)))


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
    assert all(0 <= value <= 100.001 for value in vars(found).values() if value is not None)
    assert found.rougeL == pytest.approx(swapped.rougeL)


def test_candidates_and_references_must_be_pairs():
    for candidates, references in (([], []), (["a"], [])):
        with pytest.raises(ValueError, match=r"must be non-empty and of equal length, got \d and 0"):
            overlap(candidates, references, str.split)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(ValueError, match=r"segmentation of zh into words needs: pip install jieba 'sacrebleu\[ja\]'"):
        segmenter("zh", "words")


WORDS = st.lists(st.sampled_from("あいうえ"), max_size=9).map("".join)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_bleu_with_several_references_is_sacrebleus(pairs):
    candidates, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = overlap(candidates, references, list).bleu4
    streams = [[" ".join(texts[i]) if i < len(texts) else None for texts in references] for i in range(3)]
    streams = [stream for stream in streams if any(text is not None for text in stream)]
    theirs = BLEU(tokenize="none", smooth_method="none", force=True)
    if max(len(text) for texts in references for text in texts) < 4:
        assert found is None
    else:
        expected = theirs.corpus_score([" ".join(text) for text in candidates], streams).score
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_best_of_several_references_counts():
    found = overlap(["はい"], [["いいえ", "はい"]], segmenter("ja", "characters"))
    assert (found.rouge1, found.rougeL, found.exact_match) == (100, 100, 100)


def test_short_answers_are_compared_exactly_and_have_no_bleu():
    found = overlap(["はい", " ＡＢＣ \nd\n", "いいえ"], ["はい", "ABC\nd", "はい"], segmenter("ja", "characters"))
    assert found.bleu4 is None
    assert found.exact_match == pytest.approx(200 / 3)
    assert overlap(["はい"], ["はい、そうです"], segmenter("ja", "characters")).bleu4 == 0


@pytest.mark.parametrize(
    ("lang", "segmentation", "segments"),
    [("ja", "characters", "glmja-characters"), ("zh", "words", r"jieba-\d"), ("ja", "words", r"ja-mecab-\d"),
     ("en", "characters", "glmja-words")],
)  # fmt: skip
def test_signatures_name_segmentation_smoothing_library_and_version(lang, segmentation, segments):
    found = signatures(lang, segmentation)
    assert re.match(rf"case:mixed\|tok:{segments}\S*\|smooth:none\|torchmetrics:\d", found["bleu4"])
    assert re.match(rf"F1\|case:folded\|tok:{segments}\S*\|refs:best\|torchmetrics:\d", found["rouge"])
    assert found.keys() == {"bleu4", "rouge", "exact_match"}
