"""BLEU and ROUGE for languages written with and without spaces.

Both count n-grams of words. torchmetrics splits at spaces, and its ROUGE removes everything but Latin letters and
digits, which would leave nothing of a Japanese text. Here Japanese and Chinese text is segmented first: into characters
(a run of Latin letters and digits counts as one), or into words by MeCab or jieba. Scores are comparable only within
one segmentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Segmentation = Literal["characters", "words"]

_CHARACTERS = re.compile(r"[A-Za-z0-9]+|\S")
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Overlap:
    """Overlap of candidates with references, each score from 0 to 100.

    Attributes:
        bleu4: Corpus BLEU with n-grams up to 4, without smoothing (Papineni et al. 2002,
            https://aclanthology.org/P02-1040).
        rouge1: Mean F1 of unigrams over the pairs (Lin 2004, https://aclanthology.org/W04-1013), case-insensitive.
        rouge2: Mean F1 of bigrams.
        rougeL: Mean F1 of the longest common subsequence.
    """

    bleu4: float
    rouge1: float
    rouge2: float
    rougeL: float


def segmenter(lang: str, segmentation: Segmentation) -> Callable[[str], list[str]]:
    """Returns the function that segments texts of a language.

    Args:
        lang: `ja`, `zh`, or another language, whose words are separated by spaces.
        segmentation: Segmentation of `ja` and `zh`: `characters`, or `words` by MeCab and jieba.

    Raises:
        ValueError: If `words` is chosen and its packages are not installed.
    """
    if lang not in ("ja", "zh"):
        return _WORDS.findall
    if segmentation == "words":
        try:
            return _mecab() if lang == "ja" else _jieba()
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                f"segmentation of {lang} into words needs: pip install jieba 'sacrebleu[ja]' ({error})"
            ) from error
    return _CHARACTERS.findall


def overlap(candidates: Sequence[str], references: Sequence[str], segment: Callable[[str], list[str]]) -> Overlap:
    """Computes BLEU and ROUGE of candidates against references.

    Args:
        candidates: Generated texts.
        references: One reference for each candidate.
        segment: Segmenter of the language; see `segmenter`.

    Raises:
        ValueError: If candidates and references differ in number, or there are none.
    """
    from torchmetrics.functional.text import bleu_score, rouge_score  # noqa: PLC0415  # imports torch

    if not candidates or len(candidates) != len(references):
        raise ValueError(
            "candidates and references must be non-empty and of equal length, "
            f"got {len(candidates)} and {len(references)}"
        )
    found, expected = ([" ".join(segment(text)) for text in texts] for texts in (candidates, references))
    keys = ("rouge1", "rouge2", "rougeL")
    rouge = rouge_score(found, expected, rouge_keys=keys, normalizer=str.casefold, tokenizer=str.split)
    bleu = bleu_score(found, [[text] for text in expected])
    return Overlap(100 * float(bleu), *(100 * float(rouge[f"{key}_fmeasure"]) for key in keys))


def _mecab() -> Callable[[str], list[str]]:
    from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab  # noqa: PLC0415  # not always installed

    tokenizer = TokenizerJaMecab()
    return lambda text: tokenizer(text).split()


def _jieba() -> Callable[[str], list[str]]:
    import jieba  # noqa: PLC0415  # not always installed, and slow to import

    jieba.setLogLevel("WARNING")
    return lambda text: [word for word in jieba.lcut(text) if word.strip()]
