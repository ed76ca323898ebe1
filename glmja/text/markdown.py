"""Text in Markdown: names that users give may hold any character, and are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable


def markdown_text(text: str) -> str:
    """Returns a text in one line in which what Markdown or HTML would read is escaped."""
    return re.sub(r"[\\|`*<>&\[\]]", r"\\\g<0>", " ".join(text.split()))


def markdown_code(text: str) -> str:
    """Returns a text in one line as code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def markdown_row(cells: Iterable[object]) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(markdown_text(str(cell)) for cell in cells)} |"
