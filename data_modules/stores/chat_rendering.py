"""Conversations from files, rendered: what a worker process does for a chat store."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from rich.progress import Progress

from glmja.conversation.formats import BadConversation, ChatFormat, check_turns, to_messages, without_unanswered
from glmja.conversation.rendering import render_within
from glmja.errors import DataError
from glmja.files.json_files import parse_json
from glmja.files.text_lines import decode, lines_of
from glmja.tokenization.tokenizer import GLMTokenizer

_RECORDS_PER_CHUNK = 256


class Chunk(NamedTuple):
    """Records of one file: lines as bytes, or what a reader made of them already."""

    path: str
    first: int  # number of the first, from 1
    records: list[Any]


class Rendered(NamedTuple):
    """Conversations as token ids, one after the other, and the records that were dropped."""

    tokens: NDArray[np.uint32]  # of all conversations
    loss_mask: NDArray[np.bool_]  # whether each token is a target of the loss
    lengths: list[int]  # tokens of each conversation
    num_target_tokens: list[int]  # of each conversation
    num_shortened: int
    dropped: list[tuple[str, str, str]]  # reason, place, details


def render_chunk(chunk: Chunk, tokenizer: GLMTokenizer, chat_format: ChatFormat, row_len: int) -> Rendered:
    """Renders the conversations of a chunk; in a worker process."""
    ids: list[int] = []
    loss_mask: list[bool] = []
    lengths: list[int] = []
    num_target_tokens: list[int] = []
    dropped: list[tuple[str, str, str]] = []
    num_shortened = 0
    for number, record in enumerate(chunk.records, start=chunk.first):
        place = f"{chunk.path}:{number}"
        if isinstance(record, bytes) and not record.strip():
            continue
        try:
            messages = without_unanswered(to_messages(_parse(record, place), chat_format))
            check_turns(messages)
            row_ids, row_mask, shortened = render_within(messages, tokenizer, row_len)
            if not any(row_mask[1:]):
                raise _TooLong(f"the prompt alone has {row_len} tokens")
        except BadConversation as error:
            dropped.append((error.reason, place, shorten(str(error), 60, placeholder=" …")))
        except _TooLong:
            reason = "no assistant text within the first row_len tokens"
            dropped.append((reason, place, reason))
        else:
            ids += row_ids
            loss_mask += row_mask
            lengths.append(len(row_ids))
            num_target_tokens.append(sum(row_mask))
            num_shortened += shortened
    tokens, mask = np.array(ids, np.uint32), np.array(loss_mask, np.bool_)
    return Rendered(tokens, mask, lengths, num_target_tokens, num_shortened, dropped)


class _TooLong(Exception):
    """The answer lies beyond the row."""


def _parse(record: Any, place: str) -> Any:
    """The object in a line.

    Raises:
        ValueError: If the line is not UTF-8 or not JSON; such a file is damaged, not merely one of its records.
    """
    return parse_json(decode(record, place), place) if isinstance(record, bytes) else record


def read_chunks(paths: list[Path], description: str) -> Iterator[Chunk]:
    """Yields the records of the files, with a progress bar over their bytes."""
    with Progress() as progress:
        task = progress.add_task(description, total=sum(path.stat().st_size for path in paths))
        for path in paths:
            records, number = _records(path), 1
            while chunk := list(islice(records, _RECORDS_PER_CHUNK)):
                yield Chunk(str(path), number, [record for record, _ in chunk])
                number += len(chunk)
                progress.advance(task, sum(size for _, size in chunk))


def _records(path: Path) -> Iterator[tuple[Any, int]]:
    """Yields records of a file, each with its bytes in the file as far as they can be told."""
    try:
        if path.suffix == ".parquet":
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_RECORDS_PER_CHUNK):
                yield from ((row, batch.nbytes // max(1, batch.num_rows)) for row in batch.to_pylist())
        elif path.suffix == ".gz":
            with path.open("rb") as raw, io.BufferedReader(gzip.GzipFile(fileobj=raw)) as lines:
                done = 0
                for line in lines_of(lines, path):
                    yield line, raw.tell() - done
                    done = raw.tell()
        elif path.suffix == ".json" and _is_array(path):
            yield from ((record, 0) for record in json.loads(path.read_bytes()))
        else:
            with path.open("rb") as lines:
                yield from ((line, len(line)) for line in lines_of(lines, path))
    except DataError:
        raise
    except (pyarrow.ArrowException, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error})") from error


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")
