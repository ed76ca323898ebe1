"""BLEU and ROUGE for languages written with and without spaces.

Both count n-grams of words. torchmetrics splits at spaces, and its ROUGE removes everything but Latin letters and
digits, which would leave nothing of a Japanese text. Here Japanese and Chinese text is segmented first: into characters
(a run of Latin letters and digits counts as one), or into words by MeCab or jieba. Other languages are split into words
and marks. Scores are comparable only within one segmentation, which `signatures` names with all else that they depend
on; for scores that others report, see `glmja.text.sacrebleu_scores`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

Segmentation = Literal["characters", "words"]

_CHARACTERS = re.compile(r"[A-Za-z0-9]+|\S")
_WORDS = re.compile(r"\w+|[^\w\s]")
_BLEU_ORDER = 4


@dataclass(frozen=True)
class Overlap:
    """Overlap of candidates with references, each score from 0 to 100.

    Attributes:
        bleu4: Corpus BLEU with n-grams up to 4, without smoothing (Papineni et al. 2002,
            https://aclanthology.org/P02-1040); None if no reference has four segments.
        rouge1: Mean F1 of unigrams over the pairs (Lin 2004, https://aclanthology.org/W04-1013), case-insensitive. Of
            several references, the highest F1 counts.
        rouge2: Mean F1 of bigrams.
        rougeL: Mean F1 of the longest common subsequence.
        exact_match: Share of candidates that equal a reference, after NFKC, with each run of white space as one space.
    """

    bleu4: float | None
    rouge1: float
    rouge2: float
    rougeL: float
    exact_match: float


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


def signatures(lang: str, segmentation: Segmentation) -> dict[str, str]:
    """Describes what the scores of a language depend on, in the style of sacrebleu's signatures.

    Args:
        lang: Language of the texts.
        segmentation: Segmentation of `ja` and `zh`.
    """
    if lang not in ("ja", "zh"):
        segments = "glmja-words"
    elif segmentation == "characters":
        segments = "glmja-characters"
    else:
        segments = f"ja-mecab-{version('sacrebleu')}" if lang == "ja" else f"jieba-{version('jieba')}"
    library = f"torchmetrics:{version('torchmetrics')}"
    return {
        "bleu4": f"case:mixed|tok:{segments}|smooth:none|{library}",
        "rouge": f"F1|case:folded|tok:{segments}|refs:best|{library}",
        "exact_match": "case:mixed|NFKC|space:collapsed",
    }


def overlap(
    candidates: Sequence[str], references: Sequence[str | Sequence[str]], segment: Callable[[str], list[str]]
) -> Overlap:
    """Computes BLEU and ROUGE of candidates against references.

    Args:
        candidates: Generated texts.
        references: One reference, or several, for each candidate.
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
    accepted = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    found = [" ".join(segment(text)) for text in candidates]
    # the shortest first: of two that are equally close in length, BLEU takes the first, and sacrebleu the shorter one
    split = [sorted((segment(text) for text in texts), key=len) for texts in accepted]
    expected = [[" ".join(segments) for segments in texts] for texts in split]
    keys = ("rouge1", "rouge2", "rougeL")
    rouge = rouge_score(found, expected, rouge_keys=keys, normalizer=str.casefold, tokenizer=str.split)
    bleu = 100 * float(bleu_score(found, expected)) if any(len(texts[-1]) >= _BLEU_ORDER for texts in split) else None
    equal = sum(
        _comparable(text) in map(_comparable, texts) for text, texts in zip(candidates, accepted, strict=True)
    ) / len(candidates)
    rouge1, rouge2, rouge_l = (100 * float(rouge[f"{key}_fmeasure"]) for key in keys)
    return Overlap(bleu, rouge1, rouge2, rouge_l, 100 * equal)


def _comparable(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _mecab() -> Callable[[str], list[str]]:
    from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab  # noqa: PLC0415  # not always installed

    tokenizer = TokenizerJaMecab()
    return lambda text: tokenizer(text).split()


def _jieba() -> Callable[[str], list[str]]:
    import jieba  # noqa: PLC0415  # not always installed, and slow to import

    jieba.setLogLevel("WARNING")
    return lambda text: [word for word in jieba.lcut(text) if word.strip()]
