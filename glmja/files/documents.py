"""Documents: the texts of records, read as a stream."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from glmja.errors import DataError
from glmja.files.records import Chunk, check_files, read_chunks, records_of

DOCUMENT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


def read_documents(
    paths: Sequence[str | Path], text_key: str = "text", description: str | None = None
) -> Iterator[str]:
    """Yields the documents of files in order, without those that are empty or white space.

    Args:
        paths: `.txt` files with a document per line, `.jsonl` or `.jsonl.gz` files with an object per line, or
            `.parquet` files with a column of texts; all in UTF-8.
        text_key: Key or column of the text.
        description: Text of a progress bar over the bytes read; no progress bar if None.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is of another kind, is damaged or not UTF-8, has a line that is not an object with a
            text, or if there is no document at all; the message gives `path:line`.
    """
    found = False
    with closing(read_document_chunks(paths, text_key, description)) as chunks:
        for chunk in chunks:
            for text in documents_of(chunk, text_key):
                found = True
                yield text
    if not found:
        raise no_text(paths)


def check_document_files(paths: Iterable[str | Path]) -> list[Path]:
    """Checks that files exist and are of a kind that holds documents; errors as `read_documents`."""
    return check_files(paths, DOCUMENT_SUFFIXES)


def read_document_chunks(
    paths: Sequence[str | Path], text_key: str = "text", description: str | None = None
) -> Generator[Chunk, None, None]:
    """Yields chunks for `documents_of`; arguments and errors as `read_documents`."""
    return read_chunks(check_document_files(paths), text_key, description)


def documents_of(chunk: Chunk, text_key: str = "text") -> Iterator[str]:
    """Yields the documents of a chunk, without those that are empty or white space; errors as `read_documents`."""
    for place, record in records_of(chunk):
        text = record if chunk.layout == "text" else _text_of(record, text_key, place)
        if text.strip():
            yield text


def no_text(origins: Iterable[str | Path]) -> ValueError:
    """Returns the error for files or a dataset without any document."""
    return DataError(f"no text in {', '.join(map(str, origins))}")


def _text_of(record: Any, text_key: str, place: str) -> str:
    if not isinstance(record, dict) or text_key not in record:
        found = list(record)[:8] if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{place}: no key {text_key!r} (found: {found}); rename the key or set `text_key`")
    text = record[text_key]
    if not isinstance(text, str):
        raise DataError(f"{place}: {text_key!r} is not text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: character {error.start + 1} is a lone surrogate, which is not a valid character"
        ) from error
    return text
