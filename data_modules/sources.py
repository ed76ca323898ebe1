"""Where text comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSource:
    """A named set of documents in one language.

    Attributes:
        name: Of the source, as in `val/NAME/loss`.
        lang: Its language, as in `val/LANG/bits_per_char`.
        files: `.txt` (a document a line), `.jsonl`, `.jsonl.gz` or `.parquet` files.
        text_key: Key or column of the text.
    """

    name: str
    lang: str
    files: list[str]
    text_key: str = "text"
