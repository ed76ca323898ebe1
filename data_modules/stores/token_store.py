"""Documents as token ids on disk, made once and then memory-mapped.

Ids are 4 bytes each, one document after the other, every one with its EOS; a second file holds where each document
starts. A document that is there already is left out and counted: a copy of what is held out would be trained on. The
folder is named after everything that its content depends on, and appears only when it is complete, so that a store
that can be opened can be trusted.

One process reads and writes; the others parse and encode.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import TextSource
from data_modules.stores.document_encoder import DocumentEncoder
from data_modules.stores.worker_pool import map_in_processes
from glmja.files.checksums import open_sealed, seal
from glmja.files.documents import Chunk, check_paths, load_hub, no_text, read_chunks, read_hub_chunks
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder
from glmja.tokenization.tokenizer import GLMTokenizer

_FORMAT = "2"  # counts up when the content of a store for the same text changes

log = logging.getLogger(__name__)


class TokenStore:
    """The tokens of a source.

    Attributes:
        folder: Named after everything that the content depends on.
        tokens: All ids, (T,) uint32, memory-mapped.
        starts: Where each document starts, and the end, (documents + 1,) int64.
        num_blank: Documents that were left out because they are empty or white space.
        num_repeated: Documents that were left out because an equal one is there.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store."""
        self.folder = folder
        report = read_json(folder / "report.json")
        self.num_blank, self.num_repeated = int(report["blank"]), int(report["repeated"])
        self.tokens: NDArray[np.uint32] = np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r")
        self.starts: NDArray[np.int64] = np.load(folder / "starts.npy")

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, its EOS included."""
        return np.diff(self.starts)

    @classmethod
    def of(
        cls, source: TextSource, tokenizer: GLMTokenizer, cache_dir: str | Path, num_workers: int | None = None
    ) -> TokenStore:
        """Opens the store of a source, making it first if need be.

        Args:
            source: The source.
            tokenizer: Its fingerprint is part of the store's name.
            cache_dir: Where stores lie.
            num_workers: Processes that encode; None takes all cores. The store is the same whatever their number.

        Raises:
            ChildProcessError: If a worker dies, as when the machine runs out of memory.
            OSError: If a file does not exist or the disk has no room.
            ValueError: As `glmja.files.documents.read_documents` and `glmja.files.documents.load_hub`.
        """
        dataset = load_hub(source.hub, source.hub_config, source.split, source.text_key) if source.hub else None
        folder = Path(cache_dir).expanduser() / _key(source, dataset, tokenizer)
        if not folder.is_dir():
            # another process, or another machine that shares the cache, may be faster
            with suppress(FileExistsError), atomic_output_folder(folder) as partial:
                _write(source, dataset, tokenizer, partial, num_workers)
        return open_sealed(cls, folder)


def _key(source: TextSource, dataset: Any, tokenizer: GLMTokenizer) -> str:
    """A name made of the tokenizer, the text's key, and the content of the files or of the dataset's Arrow files."""
    digest = hashlib.sha256(f"{_FORMAT} {tokenizer.fingerprint} {source.text_key}".encode())
    paths = check_paths(source.files)
    if dataset is not None:
        paths = [Path(file["filename"]) for file in dataset.cache_files]
        digest.update(f"{source.split} {len(dataset)}".encode())  # a part of a split has the files of the whole
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest() + path.suffix.encode())
    return digest.hexdigest()[:32]


def _write(source: TextSource, dataset: Any, tokenizer: GLMTokenizer, folder: Path, num_workers: int | None) -> None:
    encoder = DocumentEncoder(tokenizer, source.text_key)
    lengths: list[NDArray[np.int64]] = []
    seen: set[bytes] = set()  # about 100 bytes of memory a document
    num_blank = num_repeated = 0
    with (
        (folder / "tokens.bin").open("wb") as out,
        closing(_chunks(source, dataset)) as chunks,
        closing(map_in_processes(encoder, chunks, num_workers)) as encoded,
    ):
        for part in encoded:
            is_new = np.array([_is_new(digest, seen) for digest in part.digests], dtype=np.bool_)
            part.ids[np.repeat(is_new, part.lengths)].tofile(out)
            lengths.append(part.lengths[is_new])
            num_blank, num_repeated = num_blank + part.num_blank, num_repeated + int((~is_new).sum())
    starts = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
    if len(starts) == 1:
        raise no_text(source.files or [_origin(source)])
    np.save(folder / "starts.npy", starts)
    write_json(folder / "report.json", {"blank": num_blank, "repeated": num_repeated})
    seal(folder)
    log.info("%s: %d documents, %d tokens", source.name, len(starts) - 1, starts[-1])


def _is_new(digest: bytes, seen: set[bytes]) -> bool:
    before = len(seen)
    seen.add(digest)
    return len(seen) > before


def _origin(source: TextSource) -> str:
    return f"dataset {source.hub!r}, split {source.split!r}"


def _chunks(source: TextSource, dataset: Any) -> Generator[Chunk, None, None]:
    description = f"tokenising {source.name}"
    if dataset is None:
        return read_chunks(source.files, source.text_key, description)
    return read_hub_chunks(dataset, _origin(source), source.text_key, description)
