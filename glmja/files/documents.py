"""Documents from text files and datasets, read as a stream.

`.jsonl` and `.jsonl.gz` hold an object a line, `.parquet` and datasets a column of texts, `.txt` a document a line.
Text must be UTF-8: a guessed encoding would be a silent change of the data. Reading has two halves, so that processes
can share it: one reader cuts the files into chunks of raw lines or values, and anyone parses the chunks.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
from rich.progress import Progress

from glmja.errors import DataError
from glmja.files.json_files import parse_json
from glmja.files.text_lines import decode, lines_of

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")

_CHUNK_BYTES = 1 << 18  # large beside what handing a chunk to a process costs, small beside the memory of one
_ROWS_PER_READ = 256


@dataclass(frozen=True)
class Chunk:
    """Raw lines (bytes) or values of a column, next to each other in one file or dataset.

    Attributes:
        origin: The file or dataset, for messages.
        first: Number of the first line or row, from 1.
        units: The lines or values.
        are_lines: Whether they are lines; a value that is bytes is no text.
        done: How far the reader is in the file or dataset after them, in bytes or rows.
    """

    origin: str
    first: int
    units: list[Any]
    are_lines: bool
    done: int


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
    found = False
    with closing(read_chunks(paths, text_key, description)) as chunks:
        for chunk in chunks:
            for text in documents_of(chunk, text_key):
                found = True
                yield text
    if not found:
        raise no_text(paths)


def no_text(origins: Iterable[str | Path]) -> ValueError:
    """The error for files or a dataset without any document."""
    return DataError(f"no text in {', '.join(map(str, origins))}")


def check_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Checks that the files exist and are of a kind that `read_documents` knows; raises as it does."""
    checked = [Path(path) for path in paths]
    for path in checked:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    return checked


def read_chunks(
    paths: Sequence[str | Path], text_key: str = "text", description: str | None = None
) -> Generator[Chunk, None, None]:
    """Yields the content of the files as chunks; arguments and errors as `read_documents`, whose other half follows."""
    paths = check_paths(paths)
    with Progress(disable=description is None) as progress:
        task = progress.add_task(description or "", total=sum(path.stat().st_size for path in paths))
        done = 0
        for path in paths:
            for chunk in _row_chunks(path, text_key) if path.suffix == ".parquet" else _line_chunks(path):
                progress.update(task, completed=done + chunk.done)
                yield chunk
            done += path.stat().st_size
        progress.update(task, completed=done)


def documents_of(chunk: Chunk, text_key: str = "text") -> Iterator[str]:
    """Yields the documents of a chunk; errors as `read_documents`."""
    for number, unit in enumerate(chunk.units, chunk.first):
        if chunk.are_lines:
            text = _text_of_line(unit, number, text_key, chunk.origin)
        else:
            text = _checked(unit, text_key, f"{chunk.origin}: row {number}")
        if text.strip():
            yield text


def load_hub(name: str, config: str | None = None, split: str = "train", text_key: str = "text") -> Any:
    """Loads a Hugging Face dataset, downloading it at first; never runs code that comes with it.

    Args:
        name: On the Hub, or a local folder of data files.
        config: Configuration, if it has several.
        split: Split, or a part of one.
        text_key: Column of the text.

    Raises:
        ValueError: If there is no such dataset, configuration, split or column; names the dataset.
    """
    try:
        from datasets import load_dataset  # noqa: PLC0415  # slow, and few need it

        dataset = load_dataset(name, config, split=split, keep_in_memory=False)
    except Exception as error:  # what it raises has no common class
        raise DataError(f"dataset {name!r}, split {split!r}: {' '.join(str(error).split())}") from error
    if text_key not in dataset.column_names:
        raise DataError(
            f"dataset {name!r}: no column {text_key!r} (found: {dataset.column_names}); rename the column or set "
            "`text_key`"
        )
    return dataset


def read_hub_chunks(
    dataset: Any, origin: str, text_key: str = "text", description: str | None = None
) -> Generator[Chunk, None, None]:
    """Yields a column of a dataset as chunks.

    Args:
        dataset: From `load_hub`.
        origin: Its name, for messages.
        text_key: Column of the text.
        description: Shows a progress bar with this text, over the rows read.
    """
    column = dataset.select_columns([text_key])
    values = (value for batch in column.iter(_ROWS_PER_READ) for value in batch[text_key])
    with Progress(disable=description is None) as progress:
        task = progress.add_task(description or "", total=len(dataset))
        for chunk in _chunks(origin, values, False, lambda num_rows: num_rows):
            progress.update(task, completed=chunk.done)
            yield chunk


def _chunks(
    origin: str, units: Iterator[Any], are_lines: bool, position: Callable[[int], int]
) -> Generator[Chunk, None, None]:
    """Collects units; what was read before an error comes before the error."""
    first, failure = 1, None
    while failure is None:
        collected: list[Any] = []
        try:
            size = 0
            while size < _CHUNK_BYTES:
                unit = next(units)
                collected.append(unit)
                size += 1 + (len(unit) if isinstance(unit, (bytes, str)) else 0)
        except (StopIteration, ValueError) as error:
            failure = error
        if collected:
            yield Chunk(origin, first, collected, are_lines, position(first + len(collected) - 1))
            first += len(collected)
    if isinstance(failure, ValueError):
        raise failure


def _line_chunks(path: Path) -> Generator[Chunk, None, None]:
    with path.open("rb") as raw:
        lines = _gunzipped(raw, path) if path.suffix == ".gz" else lines_of(raw, path)
        yield from _chunks(str(path), lines, True, lambda _: raw.tell())


def _gunzipped(raw: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    try:
        unpacked = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        for number, line in enumerate(lines_of(unpacked, path), start=1):  # noqa: B007
            yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: damaged gzip file ({error})") from error


def _text_of_line(raw: bytes, number: int, text_key: str, path: str) -> str:
    place = f"{path}:{number}"
    line = decode(raw, place).rstrip("\r\n")
    return line if path.endswith(".txt") or not line.strip() else _text_of(line, text_key, place)


def _text_of(line: str, text_key: str, place: str) -> str:
    record = parse_json(line, place)
    if not isinstance(record, dict) or text_key not in record:
        found = list(record)[:8] if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{place}: no key {text_key!r} (found: {found}); rename the key or set `text_key`")
    return _checked(record[text_key], text_key, place)


def _checked(text: Any, text_key: str, place: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{place}: {text_key!r} is not text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} is a lone surrogate, which is no character") from error
    return text


def _row_chunks(path: Path, text_key: str) -> Generator[Chunk, None, None]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    if text_key not in file.schema_arrow.names:
        found = file.schema_arrow.names
        raise DataError(f"{path}: no column {text_key!r} (found: {found}); rename the column or set `text_key`")
    size, num_rows = path.stat().st_size, file.metadata.num_rows
    yield from _chunks(str(path), _values(file, path, text_key), False, lambda row: size * row // num_rows)


def _values(file: pyarrow.parquet.ParquetFile, path: Path, text_key: str) -> Iterator[Any]:
    row = 0
    try:
        for batch in file.iter_batches(_ROWS_PER_READ, columns=[text_key]):
            yield from batch.column(0).to_pylist()
            row += len(batch)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged parquet file after row {row} ({error})") from error
