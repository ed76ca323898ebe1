"""BLEU and ROUGE for languages that are written with and without spaces.

Both count n-grams of words. torchmetrics splits at spaces, and its ROUGE drops what is no Latin letter or digit, so
that every Japanese text would be empty. Here a Japanese or Chinese text is segmented first: into characters (with runs
of Latin letters and digits as one), or into words by MeCab or jieba. Only figures of one segmentation can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

Segmentation = Literal["characters", "words"]

_CHARACTERS = re.compile(r"[A-Za-z0-9]+|\S")
_WORDS = re.compile(r"\w+|[^\w\s]")


def segmenter(lang: str, segmentation: Segmentation) -> Callable[[str], list[str]]:
    """The function that segments texts of a language.

    Args:
        lang: `ja`, `zh`, or another, which has spaces between its words.
        segmentation: Of `ja` and `zh`: `characters`; or `words`, by MeCab and jieba.

    Raises:
        ValueError: If words are asked for and their package is not installed.
    """
    if lang not in ("ja", "zh"):
        return _WORDS.findall
    if segmentation == "words":
        try:
            return _mecab() if lang == "ja" else _jieba()
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"words of {lang} need packages: pip install jieba 'sacrebleu[ja]' ({error})") from error
    return _CHARACTERS.findall


def overlap(
    candidates: Sequence[str], references: Sequence[str], segment: Callable[[str], list[str]]
) -> dict[str, float]:
    """How far candidates are like their references, each from 0 to 100.

    Args:
        candidates: What a model said.
        references: What was expected, one for each candidate.
        segment: As `segmenter` gives it.

    Returns:
        `bleu4` of the corpus, without smoothing (Papineni et al. 2002, https://aclanthology.org/P02-1040); `rouge1`,
        `rouge2` and `rougeL`, the means of F1 over the pairs (Lin 2004, https://aclanthology.org/W04-1013). ROUGE does
        not tell capital letters from small ones.

    Raises:
        ValueError: If there is no pair, or not one reference for each candidate.
    """
    from torchmetrics.functional.text import bleu_score, rouge_score  # noqa: PLC0415  # imports torch

    if not candidates or len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates and {len(references)} references; give as many, and some")
    ours, theirs = ([" ".join(segment(text)) for text in texts] for texts in (candidates, references))
    rouge = rouge_score(
        ours, theirs, rouge_keys=("rouge1", "rouge2", "rougeL"), normalizer=str.casefold, tokenizer=str.split
    )
    bleu = bleu_score(ours, [[text] for text in theirs])
    return {"bleu4": 100 * float(bleu)} | {
        name: 100 * float(rouge[f"{name}_fmeasure"]) for name in ("rouge1", "rouge2", "rougeL")
    }


def _mecab() -> Callable[[str], list[str]]:
    from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab  # noqa: PLC0415  # not always installed

    tokenizer = TokenizerJaMecab()
    return lambda text: tokenizer(text).split()


def _jieba() -> Callable[[str], list[str]]:
    import jieba  # noqa: PLC0415  # not always installed, and slow to import

    jieba.setLogLevel("WARNING")
    return lambda text: [word for word in jieba.lcut(text) if word.strip()]
