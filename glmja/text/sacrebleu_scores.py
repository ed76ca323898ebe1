"""BLEU and chrF as sacrebleu computes them, so that they can be compared with those that others report.

sacrebleu is an optional package. Without it, or without MeCab for Japanese, there is no score rather than another one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

INSTALL = "pip install 'sacrebleu[ja]'"

_TOKENIZERS = {"ja": "ja-mecab", "zh": "zh"}  # sacrebleu's default otherwise: 13a


@dataclass(frozen=True)
class SacrebleuScores:
    """Scores from 0 to 100 with sacrebleu's signatures.

    Attributes:
        bleu: Corpus BLEU with sacrebleu's defaults and tokenizer for the language; None without MeCab for Japanese.
        chrf: Corpus chrF2.
        signatures: Signatures of `sacrebleu` and `chrf`.
    """

    bleu: float | None
    chrf: float
    signatures: dict[str, str]


def sacrebleu_scores(
    lang: str, candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> SacrebleuScores | None:
    """Computes sacrebleu's scores, or returns None if it is not installed.

    Args:
        lang: Language of the texts.
        candidates: Generated texts.
        references: The references of each candidate.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        return None
    from sacrebleu.metrics import BLEU, CHRF  # noqa: PLC0415  # not always installed

    streams = list(zip_longest(*references))  # the first reference of each candidate, the second of each, and so on
    chrf = CHRF()
    chrf_score = float(chrf.corpus_score(list(candidates), streams).score)
    found = {"chrf": str(chrf.get_signature())}
    try:
        bleu = BLEU(tokenize=_TOKENIZERS.get(lang, "13a"), force=True)
    except (ImportError, RuntimeError):  # no MeCab
        return SacrebleuScores(None, chrf_score, found)
    bleu_score = float(bleu.corpus_score(list(candidates), streams).score)
    return SacrebleuScores(bleu_score, chrf_score, {"sacrebleu": str(bleu.get_signature()), **found})
