"""Measures of generated text that need no reference: repetition, and letters in scripts of another language."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence

from glmja.text.scripts import is_han, is_kana, is_simplified_only


def repetition_rate(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Computes the share of n-grams that repeat an earlier one: 1 - distinct n-grams / n-grams.

    This is seq-rep-n of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training",
    https://arxiv.org/abs/1908.04319. Text without loops is near 0, a single word repeated near 1.

    Args:
        tokens: Ids, or a text as its characters.
        n: Length of an n-gram.

    Returns:
        A share from 0 to 1; 0 if there are fewer than n tokens.

    Raises:
        ValueError: If n is below 1.
    """
    if n < 1:
        raise ValueError(f"n ({n}) must be at least 1")
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def simplified_only_share(text: str) -> float:
    """Computes the share of Han characters that are simplified-only; 0 if there is no Han character."""
    han = [character for character in text if is_han(character)]
    return sum(map(is_simplified_only, han)) / max(1, len(han))


def script_purity(text: str, lang: str) -> float:
    """Computes the share of letters in scripts of the language; 1 if there is no letter.

    Japanese is written with kana and Han characters except simplified-only ones, Chinese with Han characters. Latin
    letters count for every language, because all of them borrow Latin words.

    Args:
        text: Generated text.
        lang: `ja`, `zh`, or another language, which has Latin letters only.
    """
    letters = [character for character in text if character.isalpha()]
    return sum(_writes(lang, letter) for letter in letters) / len(letters) if letters else 1.0


def _writes(lang: str, letter: str) -> bool:
    if is_han(letter):
        return lang == "zh" or (lang == "ja" and not is_simplified_only(letter))
    if is_kana(letter):
        return lang == "ja"
    return unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))
