"""What can be counted on generated text without a judge: loops, and letters that the language does not write."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence

from glmja.text.scripts import is_han, is_kana, is_simplified_only


def repetition_rate(tokens: Sequence[Hashable], n: int = 4) -> float:
    """The share of n-grams that repeat an earlier one: 1 - distinct n-grams / n-grams.

    It is seq-rep-n of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training",
    https://arxiv.org/abs/1908.04319. A text without loops is near 0, one word over and over near 1.

    Args:
        tokens: Ids, or a text, which counts as its characters.
        n: Tokens of an n-gram.

    Returns:
        From 0 to 1; 0 if there are fewer than n tokens.

    Raises:
        ValueError: If n is below 1.
    """
    if n < 1:
        raise ValueError(f"n ({n}) must be at least 1")
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def simplified_only_share(text: str) -> float:
    """The share of the Han characters that are simplified-only; 0 if there is no Han character."""
    han = [character for character in text if is_han(character)]
    return sum(map(is_simplified_only, han)) / max(1, len(han))


def script_purity(text: str, lang: str) -> float:
    """The share of the letters that the language writes; 1 if there is none.

    Japanese writes kana and Han characters but for the simplified-only ones, Chinese Han characters, and every language
    Latin letters, which all of them borrow.

    Args:
        text: What a model said.
        lang: `ja`, `zh`, or another that has Latin letters only.
    """
    letters = [character for character in text if character.isalpha()]
    return sum(_writes(lang, letter) for letter in letters) / len(letters) if letters else 1.0


def _writes(lang: str, letter: str) -> bool:
    if is_han(letter):
        return lang == "zh" or (lang == "ja" and not is_simplified_only(letter))
    if is_kana(letter):
        return lang == "ja"
    return unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))
