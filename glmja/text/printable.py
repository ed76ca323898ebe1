"""Text made safe to print in a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str, max_len: int | None = None) -> str:
    """Replaces control characters, including those that change the writing direction, with U+FFFD.

    Line feeds and the zero-width joiner of emoji are kept; tabs become spaces.

    Args:
        text: Text of a model or a user.
        max_len: Maximum number of characters; longer text is cut and ends with an ellipsis. Unlimited if None.
    """
    shown = text if max_len is None or len(text) <= max_len else text[:max_len] + "…"
    return "".join(
        c if unicodedata.category(c)[0] != "C" or c in "\n\u200d" else "\ufffd" for c in shown.replace("\t", " ")
    )


def one_line(text: str, max_len: int) -> str:
    """Returns printable text with each run of white space as one space.

    Args:
        text: Text of a model or a user.
        max_len: Maximum number of characters, as for `printable`.
    """
    return " ".join(printable(text, max_len).split())
