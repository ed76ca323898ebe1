"""Documents: the texts of records, read as a stream."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from glmja.errors import DataError
from glmja.files.chunks import Chunk
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import DOCUMENT_KINDS, DataFile, InputPath, find_files
from glmja.files.records import read_chunks, records_of

log = logging.getLogger(__name__)


def read_documents(paths: Sequence[InputPath], text_key: str = "text", description: str | None = None) -> Iterator[str]:
    """Yields the documents of files in order, without those that are null, empty or white space.

    Args:
        paths: Files, folders and patterns, as `glmja.files.input_files.find_files` takes them. `.txt` files have a
            document per line, `.jsonl` and `.json` files an object per line, an array, or objects over several lines,
            `.csv`, `.parquet` and `.arrow` files a column of texts; all in UTF-8.
        text_key: Key or column of the text; `a.b` is the key `b` of the object `a`.
        description: Text of a progress bar over the bytes read; no progress bar if None.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is of another kind, is damaged or not UTF-8, has a line that is not an object with a
            text, or if there is no document at all; the message gives `path:line`.
    """
    found = skipped = 0
    with closing(read_document_chunks(paths, text_key, description)) as chunks:
        for chunk in chunks:
            before = found
            for text in documents_of(chunk, text_key):
                found += 1
                yield text
            skipped += len(chunk.raw) - (found - before)
    if not found:
        raise no_text(paths)
    if skipped:
        log.info("%d of %d records are null, empty or white space, and left out", skipped, found + skipped)


def check_document_files(
    paths: Iterable[InputPath], text_key: str = "text", whole_texts: bool = False
) -> list[DataFile]:
    """Finds files and reads the first record of each, so that a wrong file ends a command before its long work.

    Args:
        paths: As for `read_documents`.
        text_key: Key or column of the text.
        whole_texts: Whether a text file is one document instead of one a line.

    Returns:
        The files, which take the place of their paths from now on.

    Raises:
        FileNotFoundError: As `read_documents`.
        ValueError: As `read_documents`, but only for the first record of each file.
    """
    files = find_files(paths, DOCUMENT_KINDS, whole_texts)
    for file in files:
        if isinstance(file, HubDataset):
            file.check()  # downloads nothing
            continue
        with closing(read_chunks([file], text_key, limit=1)) as chunks:
            for chunk in chunks:
                next(documents_of(chunk, text_key), None)
    return files


def read_document_chunks(
    paths: Sequence[InputPath], text_key: str = "text", description: str | None = None, limit: int | None = None
) -> Generator[Chunk, None, None]:
    """Yields chunks for `documents_of`; arguments and errors as `glmja.files.records.read_chunks`."""
    return read_chunks(paths, text_key, description, limit)


def documents_of(chunk: Chunk, text_key: str = "text") -> Iterator[str]:
    """Yields the documents of a chunk, without null, empty and blank ones; errors as `read_documents`."""
    is_text, key = chunk.layout in ("text", "document"), chunk.key or text_key
    for place, record in records_of(chunk):
        text = record if is_text else _text_of(record, key, place)
        if text is not None and text.strip():
            yield text


def no_text(origins: Iterable[InputPath]) -> ValueError:
    """Returns the error for files or a dataset without any document."""
    return DataError(f"no text in {', '.join(map(str, origins))}")


def _text_of(record: Any, text_key: str, place: str) -> str | None:
    text = record[text_key] if isinstance(record, dict) and text_key in record else _nested(record, text_key, place)
    if text is None:
        return None
    if not isinstance(text, str):
        raise DataError(f"{place}: {text_key!r} is not text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: character {error.start + 1} is a lone surrogate, which is not a valid character"
        ) from error
    return text


def _nested(record: Any, text_key: str, place: str) -> Any:
    """Returns the value of a key of an object in the record; None if the object is null."""
    value = record
    for key in text_key.split("."):
        if not isinstance(value, dict) or key not in value:
            found = list(value)[:8] if isinstance(value, dict) else type(value).__name__
            raise DataError(f"{place}: no key {text_key!r} (found: {found}); rename the key or set `text_key`")
        value = value[key]
        if value is None:
            break
    return value
