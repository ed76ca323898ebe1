import sys

import pytest
from sacrebleu.metrics import BLEU, CHRF

from glmja.text.sacrebleu_scores import sacrebleu_scores

PAIRS = {
    "ja": (["桜は三月の終わりから四月に咲きます。"], ["桜は三月下旬から四月上旬に咲きます。"], "ja-mecab"),
    "zh": (["价格是 3.5 元，约合 USD 0.5。"], ["价格为3.5元（约0.5美元）。"], "zh"),
    "en": (["It's 3.5 km away, to the north."], ["It is 3.5 km away, to the north."], "13a"),
    "code": (["print('a b c')"], ["print('a b d')"], "13a"),
}


@pytest.mark.parametrize("lang", PAIRS)
def test_scores_and_signatures_are_those_that_sacrebleu_gives(lang):
    candidates, references, tokenizer = PAIRS[lang]
    found = sacrebleu_scores(lang, candidates, [[text] for text in references])
    theirs, chrf = BLEU(tokenize=tokenizer), CHRF()
    assert found.bleu == theirs.corpus_score(candidates, [references]).score > 0
    assert found.chrf == chrf.corpus_score(candidates, [references]).score > 0
    assert found.signatures == {"sacrebleu": str(theirs.get_signature()), "chrf": str(chrf.get_signature())}
    assert f"tok:{tokenizer}" in found.signatures["sacrebleu"]


def test_candidates_may_have_different_numbers_of_references():
    found = sacrebleu_scores("en", ["a b c d", "e f g h"], [["a b c d", "x"], ["e f g h"]])
    assert found.bleu == pytest.approx(100) and "nrefs:var" in found.signatures["sacrebleu"]


def test_scores_of_sacrebleu_are_left_out_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert sacrebleu_scores("en", ["a"], [["a"]]) is None


def test_bleu_of_japanese_is_left_out_without_mecab(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    found = sacrebleu_scores("ja", ["桜は咲く"], [["桜は咲く"]])
    assert found.bleu is None and found.chrf == pytest.approx(100) and set(found.signatures) == {"chrf"}
    assert sacrebleu_scores("zh", ["桜は咲く"], [["桜は咲く"]]).bleu == pytest.approx(100)
