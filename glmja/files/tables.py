"""Rows of tables: CSV, parquet, and Arrow files as `datasets` writes them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from glmja.errors import DataError
from glmja.files.text_lines import MAX_LINE_BYTES, decode, lines_of

ROWS_PER_READ = 256

Reads = Iterator[tuple[list[Any], int]]  # rows, and their size in bytes
Position = Callable[[int], int]


def csv_rows(file: BinaryIO, path: str) -> Reads:
    """Yields the rows of a CSV file with a header; every cell is a string.

    Raises:
        DataError: If a row has more or fewer cells than the header, or is damaged; gives `path:line`.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = (decode(line, path, number) for number, line in enumerate(lines_of(file, path), start=1))
    reader = csv.reader(lines, strict=True)
    rows: list[Any] = []
    size = 0
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}: a column occurs twice in the header ({', '.join(header)[:100]})")
        for cells in reader:
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                raise DataError(f"{path}:{reader.line_num}: {len(cells)} cells, but the header has {len(header)}")
            rows.append(dict(zip(header, cells, strict=True)))
            size += sum(map(len, cells))
            if len(rows) == ROWS_PER_READ:
                yield rows, size
                rows, size = [], 0
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error})") from error
    if rows:
        yield rows, size


def parquet_rows(path: Path, column: str | None) -> tuple[Reads, Position]:
    """Returns the rows of a parquet file, and how many of its bytes are read after a number of rows.

    Args:
        path: The file.
        column: Column to read, or `a.b` for the field `b` of the column `a`; all if None.

    Raises:
        DataError: If it is no parquet file, is damaged, or has no such column.
    """
    import pyarrow.parquet  # noqa: PLC0415  # takes a tenth of a second, and most files are no tables

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    columns = _columns(file.schema_arrow.names, column, str(path))
    batches = file.iter_batches(ROWS_PER_READ, columns=columns)
    size, num_rows = path.stat().st_size, file.metadata.num_rows
    return _rows(batches, f"{path}: damaged parquet file"), lambda row: size * row // num_rows


def arrow_rows(path: Path, column: str | None) -> tuple[Reads, Position]:
    """Returns the rows of an Arrow file or stream, as `parquet_rows`."""
    import pyarrow  # noqa: PLC0415  # as above

    try:
        source = pyarrow.memory_map(str(path))
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            file = pyarrow.ipc.open_file(source)
            batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            batches = file = pyarrow.ipc.open_stream(source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not an Arrow file ({error})") from error
    columns = _columns(file.schema.names, column, str(path))
    parts = (batch.slice(i, ROWS_PER_READ) for batch in batches for i in range(0, len(batch), ROWS_PER_READ))
    chosen = (part if columns is None else part.select(columns) for part in parts)
    return _rows(chosen, f"{path}: damaged Arrow file"), lambda _: int(source.tell())


def top_column(columns: Iterable[str], column: str) -> str | None:
    """Returns the column that holds a column or nested field; None if there is none."""
    names = set(columns)
    return next((name for name in (column, column.split(".", maxsplit=1)[0]) if name in names), None)


def _columns(names: list[str], column: str | None, path: str) -> list[str] | None:
    if column is None:
        return None
    top = top_column(names, column)
    if top is None:
        raise DataError(f"{path}: no column {column!r} (found: {names}); rename the column or set `text_key`")
    return [top]


def _rows(batches: Iterable[Any], damage: str) -> Reads:
    import pyarrow  # noqa: PLC0415  # as above

    done = 0
    try:
        for batch in batches:
            yield batch.to_pylist(), batch.nbytes
            done += len(batch)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{damage} after row {done} ({error})") from error
