"""Records of files: texts, JSON values, or rows of a table, each with its place.

Reading has two halves, so that processes can share the work: `read_chunks` cuts files into chunks of raw records in one
process, and `records_of` parses a chunk in any process. A new kind of file is an entry in `_READERS` and in
`glmja.files.input_files`; a new compression one in `glmja.files.compression`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from glmja.errors import DataError
from glmja.files.chunks import CHUNK_BYTES, Chunk, row_chunks
from glmja.files.compression import UnpackError, open_unpacked
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import DataFile, InputPath, Kind, find_files
from glmja.files.json_files import parse_json
from glmja.files.json_values import is_begun, json_values
from glmja.files.progress import progress
from glmja.files.tables import arrow_rows, csv_rows, parquet_rows
from glmja.files.text_lines import MAX_LINE_BYTES, blocks_of, decode, lines_of

_FIRST_LINE_BYTES = 1 << 20


def read_chunks(
    paths: Sequence[InputPath], column: str | None = None, description: str | None = None, limit: int | None = None
) -> Generator[Chunk, None, None]:
    """Yields the records of files in order, in chunks that are not parsed yet.

    Args:
        paths: Files, folders, patterns and datasets, as `glmja.files.input_files.find_files` takes them.
        column: Column to read of tables that name none; all if None.
        description: Text of a progress bar over the bytes read; no progress bar if None.
        limit: Maximum number of records, blank lines not counted; None reads all.

    Raises:
        ValueError: If a file is damaged, is not what its suffix says, or has no such column. The records before the
            damage are yielded first.
    """
    files = find_files(paths)
    with progress(description, sum(file.size for file in files)) as advance:
        left = limit
        for file in files:
            done = 0
            for chunk in _chunks_of(file, file.key or column):
                part = chunk if left is None else _first_records(chunk, left)
                advance(part.done - done)
                done = part.done
                yield replace(part, key=file.key) if file.key else part
                if left is not None:
                    left -= sum(map(_is_record, part.raw))
                    if left == 0:
                        return
            advance(file.size - done)


def _chunks_of(file: DataFile, column: str | None) -> Iterator[Chunk]:
    if isinstance(file, HubDataset):
        return file.chunks(column)
    return _READERS[file.kind](file.path, column)


def records_of(chunk: Chunk) -> Iterator[tuple[str, Any]]:
    """Parses a chunk; blank lines are skipped.

    Yields:
        The place of a record, `path:line`, `path: row number` or `path: document number`, and the record: a string for
        a text, the parsed value for a line of JSON, a dictionary for a row.

    Raises:
        ValueError: If a line is not UTF-8 or not JSON; the message begins with its place.
    """
    if chunk.layout in ("row", "document"):
        for number, row in enumerate(chunk.raw, chunk.first):
            yield f"{chunk.origin}: {chunk.layout} {number}", row
        return
    for number, raw in enumerate(chunk.raw, chunk.first):
        line = decode(raw, chunk.origin, number).rstrip("\r\n")
        if line and not line.isspace():
            place = f"{chunk.origin}:{number}"
            yield place, line if chunk.layout == "text" else parse_json(line, place)


def read_records(paths: Sequence[InputPath]) -> Generator[tuple[str, Any], None, None]:
    """Yields the records of files with their places, as `records_of`; arguments and errors as `read_chunks`."""
    with closing(read_chunks(paths)) as chunks:
        for chunk in chunks:
            yield from records_of(chunk)


def check_record_files(paths: Iterable[InputPath], kinds: Collection[Kind]) -> list[DataFile]:
    """Finds files and parses the first record of each; arguments and errors as `find_files` and `read_records`.

    Nothing of a dataset of the Hub is downloaded; see `HubDataset.check`.
    """
    files = find_files(paths, kinds)
    for file in files:
        if isinstance(file, HubDataset):
            file.check()
            continue
        with closing(read_records([file])) as records:
            next(records, None)
    return files


def _is_record(raw: Any) -> bool:
    return not isinstance(raw, bytes) or (bool(raw) and not raw.isspace())


def _first_records(chunk: Chunk, count: int) -> Chunk:
    """Returns the part of a chunk that ends with a number of records."""
    for end, raw in enumerate(chunk.raw, start=1):
        count -= _is_record(raw)
        if count == 0:
            return replace(chunk, raw=chunk.raw[:end])
    return chunk


def _line_chunks(path: Path, layout: Literal["text", "json"]) -> Iterator[Chunk]:
    """Cuts lines into chunks; the lines before an error are yielded before it is raised."""
    first, failure = 1, None
    with open_unpacked(path) as (file, position):
        lines = lines_of(file, str(path))
        while failure is None:
            raw: list[bytes] = []
            size = 0
            try:
                while size < CHUNK_BYTES:
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


def _read_whole(path: Path, column: str | None) -> Iterator[Chunk]:
    """Reads a file as one document."""
    blocks: list[str] = []
    size = 0
    with open_unpacked(path) as (file, position):
        for block in blocks_of(file, str(path)):
            blocks.append(block)
            size += len(block)
            if size > MAX_LINE_BYTES:
                raise DataError(
                    f"{path}: a document of more than {MAX_LINE_BYTES >> 20} Mi characters; split it, or read its lines"
                )
        if size:
            yield Chunk(str(path), 1, ["".join(blocks).replace("\r\n", "\n")], "document", position())


def _read_wiki(path: Path, column: str | None) -> Iterator[Chunk]:
    """Reads what is between `<doc …>` and `</doc>`, which WikiExtractor writes on lines of their own."""
    with open_unpacked(path) as (file, position):
        documents = _portions(_wiki_documents(lines_of(file, str(path)), str(path)))
        yield from row_chunks(str(path), documents, lambda _: position(), "document")


def _wiki_documents(lines: Iterable[bytes], path: str) -> Iterator[tuple[list[Any], int]]:
    document: list[str] | None = None
    for number, raw in enumerate(lines, start=1):
        line = decode(raw, path, number).rstrip("\r\n")
        if line.startswith("<doc "):
            document = []
        elif line == "</doc>" and document is not None:
            text = "\n".join(document).strip("\n")
            yield [text], len(text)
            document = None
        elif document is not None:
            document.append(line)
        elif line.strip():
            raise DataError(f"{path}:{number}: text outside of <doc …> and </doc>, which the file begins with")
    if document is not None:
        raise DataError(f"{path}: the last document has no </doc>; the file is not complete")


def _read_json(path: Path, column: str | None) -> Iterator[Chunk]:
    """Reads an object per line, or else an array, or objects over several lines."""
    if not _is_values(path):
        yield from _line_chunks(path, "json")
        return
    with open_unpacked(path) as (file, position):
        values = (([value], size) for value, size in json_values(blocks_of(file, str(path)), str(path)))
        yield from row_chunks(str(path), _portions(values), lambda _: position())


def _portions(values: Iterable[tuple[list[Any], int]]) -> Iterator[tuple[list[Any], int]]:
    """Joins values to portions of the size of a chunk; those before an error are yielded before it is raised."""
    rows: list[Any] = []
    size = 0
    failure = None
    try:
        for value, length in values:
            rows += value
            size += length
            if size >= CHUNK_BYTES:
                yield rows, size
                rows, size = [], 0
    except DataError as error:
        failure = error
    if rows:
        yield rows, size
    if failure is not None:
        raise failure


def _is_values(path: Path) -> bool:
    """Returns whether a JSON file is something else than an object per line, by its first line that is not blank."""
    with open_unpacked(path) as (file, _):
        try:
            while line := file.readline(_FIRST_LINE_BYTES):
                start = line.removeprefix(b"\xef\xbb\xbf").lstrip()
                if start.startswith(b"["):
                    return True
                if start:
                    rest = b"" if line.endswith(b"\n") else file.readline(MAX_LINE_BYTES)
                    return is_begun((start + rest).decode().strip())
        except (UnicodeDecodeError, UnpackError):  # the reader of lines reports the place
            return False
    return False


def _read_csv(path: Path, column: str | None) -> Iterator[Chunk]:
    with open_unpacked(path) as (file, position):
        yield from row_chunks(str(path), csv_rows(file, str(path)), lambda _: position())


def _read_parquet(path: Path, column: str | None) -> Iterator[Chunk]:
    return row_chunks(str(path), *parquet_rows(path, column))


def _read_arrow(path: Path, column: str | None) -> Iterator[Chunk]:
    return row_chunks(str(path), *arrow_rows(path, column))


_READERS: dict[Kind, Callable[[Path, str | None], Iterator[Chunk]]] = {
    "text": _read_text,
    "whole": _read_whole,
    "wiki": _read_wiki,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
