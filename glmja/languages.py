"""The languages whose text can be told apart, and files named by them on a command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from glmja.corpus import check_paths

LANGUAGES = ("ja", "zh", "en", "code")


def files_by_language(flag: str, items: Sequence[str], known: Collection[str] | None = None) -> dict[str, list[Path]]:
    """Files of each language, from items such as `ja=data/ja.jsonl`.

    Args:
        flag: What the items were given to, for messages.
        items: LANG=FILE each; several of one language go together.
        known: Languages that may be named; any if None.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If an item has another form, names an unknown language or a file of an unknown kind.
    """
    files: dict[str, list[Path]] = {}
    for item in items:
        language, separator, path = item.partition("=")
        if not (language and separator and path):
            raise ValueError(f"{flag} {item!r} must be LANG=FILE, as in ja=data/ja.jsonl")
        if known is not None and language not in known:
            raise ValueError(f"{flag} {item!r}: unknown language {language!r}; known are {', '.join(known)}")
        files.setdefault(language, []).extend(check_paths([path]))
    return files
