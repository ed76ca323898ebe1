"""A seal on a store: the hashes of its files, so that what a disk damages is not trained on.

The price is one reading of the store when it is opened, as of the sources, whose hashes name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from glmja.errors import DataError
from glmja.files.json_files import read_json, write_json

_NAME = "seal.json"

Store = TypeVar("Store")


def seal(folder: Path) -> None:
    """Writes down the hashes of a folder's files."""
    write_json(folder / _NAME, _hashes(folder))


def open_sealed(kind: Callable[[Path], Store], folder: Path) -> Store:
    """Opens a store that is as it was when it was sealed.

    Args:
        kind: The store's class.
        folder: Where it lies.

    Raises:
        ValueError: If it has no seal, or a file is missing, new or changed; names it.
    """
    try:
        sealed, now = read_json(folder / _NAME), _hashes(folder)
    except (ValueError, OSError) as error:
        raise _damaged(folder, str(error)) from error
    if wrong := sorted(name for name in sealed.keys() | now.keys() if sealed.get(name) != now.get(name)):
        raise _damaged(folder, f"{wrong[0]!r} is not what was written")
    return kind(folder)


def _damaged(folder: Path, why: str) -> DataError:
    return DataError(f"the cache {folder} is damaged ({why}); remove it, and it is made anew")


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in folder.iterdir():
        if path.name != _NAME:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
