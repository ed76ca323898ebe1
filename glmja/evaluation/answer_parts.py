"""A text of a model in parts for a page: prose with blank lines collapsed, and code as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from glmja.text.printable import printable
from glmja.text.quality import failure_of

_CODE = re.compile(
    r"(^[ \t]*```.*?(?:^[ \t]*```[ \t]*$|\Z))", re.MULTILINE | re.DOTALL
)  # open until the end if cut off
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")
_OUTER_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+|(?:\n[^\S\n]*)+\Z")
_TAB_WIDTH = 4


@dataclass(frozen=True)
class AnswerPart:
    """A part of an answer.

    Attributes:
        kind: `failure` is the mark of an answer that is empty, blank or looping.
        text: Text without control characters.
    """

    kind: Literal["prose", "code", "failure"]
    text: str


def answer_parts(text: str) -> list[AnswerPart]:
    """Splits an answer at code between ``` and ```.

    Args:
        text: Text of a model or a user.

    Returns:
        The parts. Runs of blank lines in prose are one blank line, and none at its beginning and end. The first part of
        an answer that is empty, blank or looping says so.
    """
    failure = failure_of(text)
    mark = [AnswerPart("failure", failure)] if failure else []
    if failure in ("empty", "blank"):
        return mark
    parts = mark
    for number, part in enumerate(_CODE.split(text)):
        if number % 2:
            parts.append(AnswerPart("code", printable(part.expandtabs(_TAB_WIDTH))))
        elif collapsed := _BLANK_LINES.sub("\n\n", _OUTER_BLANK_LINES.sub("", part)):
            parts.append(AnswerPart("prose", printable(collapsed)))
    return parts
