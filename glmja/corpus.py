"""Documents from text files, read as a stream.

`.jsonl` and `.jsonl.gz` hold an object a line, `.parquet` a column of texts, `.txt` a
document a line. Text must be UTF-8: a guessed encoding would be a silent change of the data.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
from rich.progress import Progress

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


def read_documents(
    paths: Sequence[str | Path], text_key: str = "text", description: str | None = None
) -> Iterator[str]:
    """Yields the documents of the files in order, without those that are empty or white space.

    Args:
        paths: Files of the kinds above.
        text_key: Key (or column) of the text.
        description: Shows a progress bar with this text, over the bytes read.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is of another kind, is not UTF-8, has a line that is not an object with a text, or
            if there is no document at all; the message gives `path:line`.
    """
    paths = check_paths(paths)
    num_documents = 0
    with Progress(disable=description is None) as progress:
        task = progress.add_task(description or "", total=sum(path.stat().st_size for path in paths))
        done = 0
        for path in paths:
            for position, text in _read_file(path, text_key):
                progress.update(task, completed=done + position)
                if text.strip():
                    num_documents += 1
                    yield text
            done += path.stat().st_size
        progress.update(task, completed=done)
    if num_documents == 0:
        raise ValueError(f"no text in {', '.join(map(str, paths))}")


def check_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Checks that the files exist and are of a kind that `read_documents` knows; raises as it does."""
    checked = [Path(path) for path in paths]
    for path in checked:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    return checked


def _read_file(path: Path, text_key: str) -> Iterator[tuple[int, str]]:
    """Yields texts with the number of bytes read so far."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path, text_key)
        return
    with path.open("rb") as raw:
        lines = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        for number, line in _decoded_lines(lines, path):
            yield raw.tell(), line if path.suffix == ".txt" else _text_of(line, text_key, f"{path}:{number}")


def _decoded_lines(lines: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if text.strip():
                yield number, text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1}); "
            "convert the file to UTF-8"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}:{number + 1}: damaged gzip file ({error})") from error


def _text_of(line: str, text_key: str, place: str) -> str:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(record, dict) or text_key not in record:
        found = list(record)[:8] if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{place}: no key {text_key!r} (found: {found}); name the key with --text_key")
    return _checked(record[text_key], text_key, place)


def _checked(text: Any, text_key: str, place: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{place}: {text_key!r} is not text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: character {error.start + 1} is a lone surrogate, which is no character") from error
    return text


def _read_parquet(path: Path, text_key: str) -> Iterator[tuple[int, str]]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file ({error})") from error
    if text_key not in file.schema_arrow.names:
        raise ValueError(f"{path}: no column {text_key!r} (found: {file.schema_arrow.names}); name it with --text_key")
    row, size, num_rows = 0, path.stat().st_size, file.metadata.num_rows
    try:
        for batch in file.iter_batches(columns=[text_key]):
            for text in batch.column(0).to_pylist():
                row += 1
                yield size * row // num_rows, _checked(text, text_key, f"{path}: row {row}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged parquet file after row {row} ({error})") from error
