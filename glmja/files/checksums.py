"""SHA-256 checksums of files, and of all files in a folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from glmja.files.json_files import read_json, write_json

CHECKSUM_FILE = "seal.json"  # the name that existing stores have


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files of a folder to its `CHECKSUM_FILE`."""
    write_json(folder / CHECKSUM_FILE, _checksums(folder))


def changed_files(folder: Path) -> list[str]:
    """Compares the files of a folder with its `CHECKSUM_FILE`.

    Returns:
        The names of files that are missing, new or changed, sorted.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If `CHECKSUM_FILE` is not a JSON object.
    """
    written, found = read_json(folder / CHECKSUM_FILE), _checksums(folder)
    return sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in folder.iterdir() if path.name != CHECKSUM_FILE}
