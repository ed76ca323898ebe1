"""Chunks of raw records: what one process reads, and any other can parse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

CHUNK_BYTES = 1 << 18  # large compared to the cost of handing a chunk to a process, small compared to its memory


@dataclass(frozen=True)
class Chunk:
    """Consecutive raw records of a file or dataset.

    Attributes:
        origin: Path of the file or name of the dataset, for error messages.
        first: Number of the first record, from 1.
        raw: The records: lines as bytes, or documents or rows as they were read.
        layout: Content of a record: a line of text, a line of JSON, a whole document, or a row of a table or array.
        done: Amount of the file or dataset read so far, in bytes or rows.
        key: Key or column of the text; None if the file has none of its own.
    """

    origin: str
    first: int
    raw: list[Any]
    layout: Literal["text", "json", "document", "row"]
    done: int
    key: str | None = None


def row_chunks(
    origin: str,
    reads: Iterable[tuple[list[Any], int]],
    position: Callable[[int], int],
    layout: Literal["document", "row"] = "row",
) -> Iterator[Chunk]:
    """Cuts rows into chunks.

    Args:
        origin: Path of the file or name of the dataset.
        reads: Rows in the portions in which they are read, each with its size in bytes.
        position: Returns `Chunk.done` after a given number of rows.
        layout: Content of a row.
    """
    first = 1
    for rows, num_bytes in reads:
        step = max(1, CHUNK_BYTES * len(rows) // max(1, num_bytes))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield Chunk(origin, first, part, layout, position(first + len(part) - 1))
            first += len(part)
