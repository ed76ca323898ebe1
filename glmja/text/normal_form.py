"""The normal form NFC, in which が is one character, for texts of any length."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from glmja.text.scripts import is_han

_BLOCK = 1 << 20  # characters; normalizing takes up to 20 bytes of memory for each


def compose(text: str) -> str:
    """Returns a text in the normal form NFC, made in blocks."""
    return "".join(unicodedata.normalize("NFC", block) for block in _blocks(text))


def count_decomposed(text: str) -> int:
    """Returns by how many characters NFC shortens a text, such as the か and the sign of voicing of a decomposed が."""
    decomposed = (block for block in _blocks(text) if not unicodedata.is_normalized("NFC", block))
    # NFC also replaces single characters by others, or by several
    return max(0, sum(len(block) - len(unicodedata.normalize("NFC", block)) for block in decomposed))


def _blocks(text: str) -> Iterator[str]:
    """Cuts a text before characters that NFC joins with none before them: ideographs and ASCII.

    Source: https://unicode.org/reports/tr15/#Stable_Code_Points.
    """
    start = 0
    while len(text) - start > _BLOCK:
        end = start + _BLOCK
        while end < len(text) and not (text[end].isascii() or is_han(text[end])):
            end += 1
        yield text[start:end]
        start = end
    yield text[start:]
