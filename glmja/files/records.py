"""Records of files: lines of text, JSON objects, or rows of a table, each with its place.

Reading has two halves, so that processes can share the work: `read_chunks` cuts files into chunks of raw records in one
process, and `records_of` parses a chunk in any process. A new kind of file is an entry in `_READERS`; a new compression
one in `glmja.files.text_lines`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glmja.errors import DataError
from glmja.files.json_files import parse_json
from glmja.files.progress import progress
from glmja.files.text_lines import decode, open_lines, without_compression

ROWS_PER_READ = 256

_CHUNK_BYTES = 1 << 18  # large compared to the cost of handing a chunk to a process, small compared to its memory


@dataclass(frozen=True)
class Chunk:
    """Consecutive raw records of a file or dataset.

    Attributes:
        origin: Path of the file or name of the dataset, for error messages.
        first: Number of the first record, from 1.
        raw: The records: lines as bytes, or rows as they were read.
        layout: Content of a record: a line of text, a line of JSON, or a row of a table or array.
        done: Amount of the file or dataset read so far, in bytes or rows.
    """

    origin: str
    first: int
    raw: list[Any]
    layout: Literal["text", "json", "row"]
    done: int


def check_files(paths: Iterable[str | Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Checks that files exist and have one of the given suffixes.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file has another suffix.
    """
    checked = [Path(path) for path in paths]
    for path in checked:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        if not path.name.endswith(suffixes):
            raise ValueError(f"{path}: unknown kind of file; known are {', '.join(suffixes)}")
    return checked


def read_chunks(
    paths: Sequence[str | Path], column: str | None = None, description: str | None = None
) -> Generator[Chunk, None, None]:
    """Yields the records of files in order, in chunks that are not parsed yet.

    Args:
        paths: Existing files: `.txt`, `.jsonl`, `.json` (an array, or an object per line), the same with `.gz`, or
            `.parquet`.
        column: Column to read of tables; all if None.
        description: Text of a progress bar over the bytes read; no progress bar if None.

    Raises:
        ValueError: If a file is damaged, is not what its suffix says, or has no such column. The records before the
            damage are yielded first.
    """
    files = [Path(path) for path in paths]
    with progress(description, sum(path.stat().st_size for path in files)) as advance:
        for path in files:
            done = 0
            for chunk in _READERS[without_compression(path).suffix](path, column):
                advance(chunk.done - done)
                done = chunk.done
                yield chunk
            advance(path.stat().st_size - done)


def records_of(chunk: Chunk) -> Iterator[tuple[str, Any]]:
    """Parses a chunk; blank lines are skipped.

    Yields:
        The place of a record, `path:line` or `path: row number`, and the record: a string for a line of text, the
        parsed value for a line of JSON, a dictionary for a row.

    Raises:
        ValueError: If a line is not UTF-8 or not JSON; the message begins with its place.
    """
    if chunk.layout == "row":
        for number, row in enumerate(chunk.raw, chunk.first):
            yield f"{chunk.origin}: row {number}", row
        return
    for number, raw in enumerate(chunk.raw, chunk.first):
        place = f"{chunk.origin}:{number}"
        line = decode(raw, place).rstrip("\r\n")
        if line and not line.isspace():
            yield place, line if chunk.layout == "text" else parse_json(line, place)


def read_records(paths: Sequence[str | Path]) -> Generator[tuple[str, Any], None, None]:
    """Yields the records of files with their places, as `records_of`; arguments and errors as `read_chunks`."""
    with closing(read_chunks(paths)) as chunks:
        for chunk in chunks:
            yield from records_of(chunk)


def row_chunks(origin: str, reads: Iterable[tuple[list[Any], int]], position: Callable[[int], int]) -> Iterator[Chunk]:
    """Cuts rows into chunks.

    Args:
        origin: Path of the file or name of the dataset.
        reads: Rows in the portions in which they are read, each with its size in bytes.
        position: Returns `Chunk.done` after a given number of rows.
    """
    first = 1
    for rows, num_bytes in reads:
        step = max(1, _CHUNK_BYTES * len(rows) // max(1, num_bytes))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield Chunk(origin, first, part, "row", position(first + len(part) - 1))
            first += len(part)


def _line_chunks(path: Path, layout: Literal["text", "json"]) -> Iterator[Chunk]:
    """Cuts lines into chunks; the lines before an error are yielded before it is raised."""
    first, failure = 1, None
    with open_lines(path) as (lines, position):
        while failure is None:
            raw: list[bytes] = []
            size = 0
            try:
                while size < _CHUNK_BYTES:
                    raw.append(next(lines))
                    size += len(raw[-1])
            except (StopIteration, ValueError) as error:
                failure = error
            if raw:
                yield Chunk(str(path), first, raw, layout, position())
                first += len(raw)
    if isinstance(failure, ValueError):
        raise failure


def _read_text(path: Path, column: str | None) -> Iterator[Chunk]:
    return _line_chunks(path, "text")


def _read_json_lines(path: Path, column: str | None) -> Iterator[Chunk]:
    return _line_chunks(path, "json")


def _read_json(path: Path, column: str | None) -> Iterator[Chunk]:
    """Reads an array, which has to fit into memory, or an object per line."""
    with path.open("rb") as file:
        is_array = file.read(4096).lstrip().startswith(b"[")
    if not is_array:
        return _line_chunks(path, "json")
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON array ({error})") from error
    size = path.stat().st_size
    return row_chunks(str(path), [(rows, size)], lambda row: size * row // len(rows))


def _read_parquet(path: Path, column: str | None) -> Iterator[Chunk]:
    import pyarrow.parquet  # noqa: PLC0415  # takes a tenth of a second, and most files are no tables

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    columns = file.schema_arrow.names
    if column is not None and column not in columns:
        raise DataError(f"{path}: no column {column!r} (found: {columns}); rename the column or set `text_key`")
    size, num_rows = path.stat().st_size, file.metadata.num_rows

    def reads() -> Iterator[tuple[list[Any], int]]:
        done = 0
        try:
            for batch in file.iter_batches(ROWS_PER_READ, columns=None if column is None else [column]):
                yield batch.to_pylist(), batch.nbytes
                done += len(batch)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: damaged parquet file after row {done} ({error})") from error

    return row_chunks(str(path), reads(), lambda row: size * row // num_rows)


_READERS: dict[str, Callable[[Path, str | None], Iterator[Chunk]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
