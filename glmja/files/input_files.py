"""The files that a user names: paths, folders and patterns, each file with its kind.

A kind is read off the suffix, or, without one, off the first bytes. What is recognized as no data at all, such as a Git
LFS pointer or an error page, is refused here, before anything is read from any of the files.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from glmja.errors import DataError
from glmja.files.compression import COMPRESSION_SUFFIXES, open_unpacked, without_compression
from glmja.files.hub_datasets import PREFIX, HubDataset
from glmja.files.placeholders import describe_placeholder

Kind = Literal["text", "wiki", "whole", "json", "csv", "parquet", "arrow"]

CONVERSATION_KINDS: tuple[Kind, ...] = ("json", "csv", "parquet", "arrow")
DOCUMENT_KINDS: tuple[Kind, ...] = ("text", "wiki", *CONVERSATION_KINDS)

_SUFFIXES: dict[str, Kind] = {
    ".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
_TABLES = ("parquet", "arrow")  # have a compression of their own
_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"{": "json", b"[": "json", b"<doc ": "wiki"}
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_NO_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}  # describe the data beside them
_HEAD = 4096  # bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputFile:
    """A file of records.

    Attributes:
        path: The file.
        kind: Lines of text, documents between `<doc …>` and `</doc>` (as WikiExtractor writes them), a whole text,
            JSON, or a table.
        key: Key or column of the text in this file; None if it is that of the other files.
    """

    path: Path
    kind: Kind
    key: str | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size

    def __fspath__(self) -> str:
        """Returns the path."""
        return str(self.path)

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)


DataFile = InputFile | HubDataset
InputPath = str | os.PathLike[str] | HubDataset


def find_files(
    items: Iterable[InputPath], kinds: Collection[Kind] = DOCUMENT_KINDS, whole_texts: bool = False
) -> list[DataFile]:
    """Finds the files that a user names.

    Args:
        items: Paths of files or folders, or patterns such as `data/*.jsonl`; `PATH:KEY` names the key of the text.
            `hub:NAME` is a dataset of the Hugging Face Hub; see `HubDataset.parse`.
        kinds: Accepted kinds. Other files are refused if they are named, and left out of a folder.
        whole_texts: Whether a text file is one document instead of one a line.

    Returns:
        The files; those of a folder or a pattern are sorted.

    Raises:
        FileNotFoundError: If a file does not exist, or a pattern matches none.
        ValueError: If a file is of another kind, a Git LFS pointer or a web page, or a folder holds no data.
    """
    found: list[DataFile] = []
    missing: list[str] = []
    for item in items:
        try:
            found += _files_of(item, kinds)
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; ".join(missing))
    if not whole_texts:
        return found
    whole: list[DataFile] = []
    for file in found:
        kind = f"{file.kind} file" if isinstance(file, InputFile) else "dataset"
        if isinstance(file, HubDataset) or file.kind not in ("text", "whole"):
            raise DataError(f"{file}: only a text file can be one document as a whole; this is a {kind}")
        whole.append(replace(file, kind="whole"))
    return whole


def check_is_data(path: str | os.PathLike[str]) -> None:
    """Checks that a file is not what Git LFS or a server left in its place; see `describe_placeholder`.

    Raises:
        DataError: If it is; the message says how to get the file.
    """
    if placeholder := describe_placeholder(path):
        raise DataError(f"{path}: {placeholder}")


def _files_of(item: InputPath, kinds: Collection[Kind]) -> Sequence[DataFile]:
    if isinstance(item, InputFile | HubDataset):
        return [item]
    if not str(item):  # pathlib would take it as the working directory
        raise ValueError("the path of a file is empty, perhaps from an unset variable of the shell; give a path")
    if str(item).startswith(PREFIX):
        return [HubDataset.parse(str(item))]
    named, key = os.path.expandvars(Path(item).expanduser()), ""
    paths = _matches(named)
    if paths is None and ":" in named:
        before, _, key = named.rpartition(":")
        paths = _matches(before) if key else None
    if paths is None:
        if glob.has_magic(named):
            raise FileNotFoundError(f"no file matches {named}")
        raise FileNotFoundError(f"no such file: {named}")
    files: list[InputFile] = []
    for path in paths:
        files += _in_folder(path, kinds) if path.is_dir() else [_checked(path, kinds)]
    if len(files) != 1:
        log.info("%s: %d files", named, len(files))
    return [replace(file, key=key) for file in files] if key else files


def _matches(named: str) -> list[Path] | None:
    """Returns the path, or those that match it as a pattern; None if there are none."""
    if Path(named).exists():
        return [Path(named)]
    if not glob.has_magic(named):
        return None
    # Path.glob takes no absolute patterns
    return [Path(path) for path in sorted(glob.glob(named, recursive=True))] or None  # noqa: PTH207


def _in_folder(folder: Path, kinds: Collection[Kind]) -> list[InputFile]:
    """Returns the data files of a folder and of those in it, sorted."""
    if (folder / "state.json").is_file():  # written by `Dataset.save_to_disk`
        return [_checked(folder / name, kinds) for name in _names_in(folder / "state.json", "_data_files")]
    if (folder / "dataset_dict.json").is_file():
        splits = _names_in(folder / "dataset_dict.json", "splits")
        raise DataError(f"{folder} has the splits {', '.join(splits)}; name one of them, as in {folder / splits[0]}")
    paths = sorted(path for path in _visible(folder) if path.name not in _NO_DATA)
    chosen = [path for path in paths if _SUFFIXES.get(_suffix(path)) in kinds]
    chosen = chosen or [path for path in paths if not _suffix(path)]
    if not chosen:
        raise DataError(f"{folder}: no data in this folder; known are {_known(kinds)}")
    if len(chosen) < len(paths):
        others = [path for path in paths if path not in set(chosen)]
        log.warning("%s: %d files are of other kinds and left out, as %s", folder, len(others), others[0].name)
    return [_checked(path, kinds) for path in chosen]


def _names_in(path: Path, key: str) -> list[str]:
    """Returns the names that a file of `Dataset.save_to_disk` lists, as text or as the `filename` of an object."""
    check_is_data(path)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[key]
        items = listed if isinstance(listed, list) else []
        names = [item["filename"] if isinstance(item, dict) else item for item in items]
    except (ValueError, LookupError, TypeError, RecursionError):
        names = []
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise DataError(f"{path}: no list of names in {key}, as `Dataset.save_to_disk` writes it; save the data again")
    return names


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            yield path


def _suffix(path: Path) -> str:
    return without_compression(path).suffix.lower()


def _checked(path: Path, kinds: Collection[Kind]) -> InputFile:
    suffix = _suffix(path)
    kind = _SUFFIXES.get(suffix)
    if suffix and kind is None:
        remedy = "unpack it, or " if path.suffix.lower() in _ARCHIVES or suffix in _ARCHIVES else ""
        raise DataError(f"{path}: unknown kind of file; {remedy}known are {_known(kinds)}")
    check_is_data(path)
    if kind in (None, "text"):
        kind = _kind_by_content(path, known=kind)
    if kind not in kinds:
        raise DataError(f"{path}: unknown kind of file ({kind}); known are {_known(kinds)}")
    if kind in _TABLES and without_compression(path) != path:
        raise DataError(f"{path}: a {kind} file within {path.suffix}; unpack it, it has a compression of its own")
    return InputFile(path, kind)


def _kind_by_content(path: Path, known: Kind | None) -> Kind:
    with open_unpacked(path) as (file, _):
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in _MAGIC.items():
        if head.startswith(start) and (known is None or kind == "wiki"):
            return kind
    return "text"


def _known(kinds: Collection[Kind]) -> str:
    plain, tables = (
        [suffix for suffix, kind in _SUFFIXES.items() if kind in kinds and (kind in _TABLES) == table]
        for table in (False, True)
    )
    return f"{', '.join(plain)} (also with {', '.join(COMPRESSION_SUFFIXES)}), {', '.join(tables)}"
