"""The languages whose text can be told apart, and files named by them on a command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from glmja.files.documents import check_document_files

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
        files.setdefault(language, []).extend(check_document_files([path]))
    return files


def check_device(name: str) -> str:
    """The device of a name, `auto` for the first GPU or else the CPU.

    Raises:
        ValueError: If the machine has no such device.
    """
    import torch  # noqa: PLC0415 - seconds, and --help does without

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"--device {name}: not on this machine ({reason}); give cpu, cuda, or auto") from error
    return name
