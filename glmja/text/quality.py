"""Measures of generated text that need no reference: no answer at all, repetition, letters of another language."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from glmja.text.scripts import is_han, is_kana, is_simplified_only

Failure = Literal["empty", "blank", "looping"]

_LOOP_REPEATS, _LOOP_LEN = 4, 24  # a rule or a laugh is shorter
_JAPANESE_MARKS = "々〆"  # letters that are neither kana nor Han characters for `glmja.text.scripts`


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


@dataclass(frozen=True)
class ScriptShares:
    """Shares of the scripts in which a text is written.

    Attributes:
        purity: Share of letters in scripts of the language: kana and Han characters except simplified-only ones for
            Japanese, Han characters for Chinese, and Latin letters for others; None if there is no letter.
        latin: Share of letters that are Latin; None if there is no letter.
        simplified_only: Share of Han characters that only simplified Chinese has; None if there is no Han character.
    """

    purity: float | None
    latin: float | None
    simplified_only: float | None


def script_shares(text: str, lang: str) -> ScriptShares:
    """Computes in which scripts a text is written.

    Latin letters do not count as Japanese or Chinese: an English answer to a Japanese question has purity 0. Texts that
    borrow Latin words are below 1 for this reason, and `latin` says by how much.

    Args:
        text: Generated text.
        lang: `ja`, `zh`, or another language, which has Latin letters only.
    """
    letters = [character for character in text if character.isalpha()]
    has_han = any(map(is_han, letters))
    return ScriptShares(
        purity=sum(_writes(lang, letter) for letter in letters) / len(letters) if letters else None,
        latin=sum(map(_is_latin, letters)) / len(letters) if letters else None,
        simplified_only=simplified_only_share(text) if has_han else None,
    )


def failure_of(text: str) -> Failure | None:
    """Returns in which way a generated text is no answer.

    Args:
        text: Generated text.

    Returns:
        `empty` without a character; `blank` with nothing but white space and invisible characters; `looping` if it ends
        with at least four repetitions of a sequence that together have at least 24 characters; else None.
    """
    if not text:
        return "empty"
    if not any(character.isprintable() and not character.isspace() for character in text):
        return "blank"
    return "looping" if _ends_in_loop(text.rstrip()) else None


def _ends_in_loop(text: str) -> bool:
    for period in range(1, len(text) // _LOOP_REPEATS + 1):
        needed = max(_LOOP_REPEATS * period, _LOOP_LEN)
        if needed <= len(text) and text[-needed:-period] == text[-needed + period :]:
            return True
    return False


def _writes(lang: str, letter: str) -> bool:
    if lang == "ja":
        return is_kana(letter) or letter in _JAPANESE_MARKS or (is_han(letter) and not is_simplified_only(letter))
    return is_han(letter) if lang == "zh" else _is_latin(letter)


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))
