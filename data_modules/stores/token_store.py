"""Documents as token ids on disk.

Each document ends with an EOS. A document that occurred before is left out and counted: a copy of a held-out document
would otherwise be trained on. One process reads and writes; the others parse and encode.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import TextSource
from data_modules.stores.document_encoder import DocumentEncoder
from data_modules.stores.joining import join_stores
from data_modules.stores.store import REPORT, TOKENS, Store, as_numbers, finish_store
from data_modules.stores.worker_pool import map_in_processes
from glmja.files.checksums import sha256_of_file
from glmja.files.chunks import Chunk
from glmja.files.compression import without_compression
from glmja.files.documents import no_text, read_document_chunks
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import DataFile, InputFile
from glmja.files.json_files import read_json
from glmja.tokenization.tokenizer import GLMTokenizer

_FORMAT = "2"  # increase when the content of a store for the same text changes

log = logging.getLogger(__name__)


class TokenStore(Store):
    """The documents of a source as token ids.

    Attributes:
        num_blank: Number of documents that were left out because they are empty or white space.
        num_repeated: Number of documents that were left out because an equal one came before.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store without verifying it."""
        super().__init__(folder)
        report = read_json(folder / REPORT)
        self.num_blank, self.num_repeated = int(report["blank"]), int(report["repeated"])

    @classmethod
    def of(
        cls, source: TextSource, tokenizer: GLMTokenizer, cache_dir: str | Path, num_workers: int | None = None
    ) -> TokenStore:
        """Opens the store of a source, and creates it first if there is none. Reads the source files for the key.

        If the cache has a store for each of its files, these are joined instead of tokenizing the files.

        Args:
            source: Source of the documents.
            tokenizer: Tokenizer; its fingerprint is part of the key.
            cache_dir: Folder that holds the stores.
            num_workers: Number of processes that encode; None uses all cores. The store does not depend on it.

        Raises:
            ChildProcessError: If a worker process dies, for example when the machine runs out of memory.
            OSError: If a file does not exist or the disk has no room.
            ValueError: As `glmja.files.documents.read_documents` and `glmja.files.hub_datasets.HubDataset.rows`.
        """
        files = source.find_files()
        contents = [_content(source, file) for file in files]
        write = partial(_write, source, files, tokenizer, num_workers)
        parts = [Path(cache_dir).expanduser() / _key(source, [content], tokenizer) for content in contents]
        if len(parts) > 1 and source.limit is None and all(part.is_dir() for part in parts):
            write = partial(cls._join, source, parts)
        return cls._open_or_create(cache_dir, _key(source, contents, tokenizer), write)

    @classmethod
    def _join(cls, source: TextSource, folders: Sequence[Path], folder: Path) -> None:
        parts = [cls.open(part.parent, part.name) for part in folders]
        reports = [{"blank": part.num_blank, "repeated": part.num_repeated} for part in parts]
        join_stores(parts, reports, folder)
        log.info("%s: joined %d files that were tokenized one by one", source.name, len(parts))


def _content(source: TextSource, file: DataFile) -> bytes:
    """Returns a hash of a file, or of a dataset's Arrow files, and how its bytes are read; its name does not count."""
    if isinstance(file, HubDataset):
        return file.content(source.limit if source.hub else None) + (file.key or "").encode()
    return bytes.fromhex(sha256_of_file(file)) + _kind_tag(file).encode()


def _key(source: TextSource, contents: Sequence[bytes], tokenizer: GLMTokenizer) -> str:
    """Hashes the tokenizer, what is read of the files, and `_content` of each."""
    digest = hashlib.sha256(f"{_FORMAT} {tokenizer.fingerprint} {source.text_key}".encode())
    for content in contents:
        digest.update(content)
    if source.limit is not None and not source.hub:
        digest.update(f"limit {source.limit}".encode())
    return digest.hexdigest()[:32]


def _kind_tag(file: InputFile) -> str:
    """Returns how the bytes of a file are read; the suffix by which existing stores know it, if they can have it."""
    if file.key is not None:
        return f"{file.kind} {file.key}"
    is_packed = without_compression(file.path) != file.path
    known = {("text", False): ".txt", ("json", False): ".jsonl", ("json", True): ".gz", ("parquet", False): ".parquet"}
    return known.get((file.kind, is_packed), file.kind)


def _write(
    source: TextSource, files: Sequence[DataFile], tokenizer: GLMTokenizer, num_workers: int | None, folder: Path
) -> None:
    encoder = DocumentEncoder(tokenizer, source.text_key)
    lengths: list[NDArray[np.int64]] = []
    seen: dict[bytes, None] = {}  # in the order of the documents; about 100 bytes of memory per document
    num_blank = num_repeated = 0
    with (
        (folder / TOKENS).open("wb") as out,
        closing(read_document_chunks(files, source.text_key, f"tokenizing {source.name}", source.limit)) as chunks,
        closing(map_in_processes(encoder, chunks, num_workers)) as encoded,
    ):
        for part in encoded:
            is_new = np.array([_is_new(digest, seen) for digest in part.digests], dtype=np.bool_)
            part.ids[np.repeat(is_new, part.lengths)].tofile(out)
            lengths.append(part.lengths[is_new])
            num_blank, num_repeated = num_blank + part.num_blank, num_repeated + int((~is_new).sum())
    all_lengths = np.concatenate([np.empty(0, np.int64), *lengths])
    if not len(all_lengths):
        raise no_text(source.files or files)
    finish_store(folder, all_lengths, as_numbers(list(seen)), {"blank": num_blank, "repeated": num_repeated})
    log.info("%s: %d documents, %d tokens", source.name, len(all_lengths), all_lengths.sum())


def read_source_chunks(source: TextSource) -> Generator[Chunk, None, None]:
    """Yields the documents of a source that are not tokenized, without showing progress."""
    return read_document_chunks(source.find_files(), source.text_key, None, source.limit)


def _is_new(digest: bytes, seen: dict[bytes, None]) -> bool:
    before = len(seen)
    seen[digest] = None
    return len(seen) > before
