"""What a model says, made safe to show."""

from __future__ import annotations

import unicodedata


def printable(text: str, max_len: int | None = None) -> str:
    """The text without characters that act on a terminal or turn the direction of writing; emoji keep their joiner.

    Args:
        text: What a model said, or a user wrote.
        max_len: Characters after which an ellipsis stands for the rest.
    """
    shown = text if max_len is None or len(text) <= max_len else text[:max_len] + "…"
    return "".join(
        c if unicodedata.category(c)[0] != "C" or c in "\n\u200d" else "\ufffd" for c in shown.replace("\t", " ")
    )
