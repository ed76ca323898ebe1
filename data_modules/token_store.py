"""Documents as token ids on disk, made once and then memory-mapped.

Ids are 4 bytes each, one document after the other, every one with its EOS; a second file holds
where each document starts. The folder is named after everything that its content depends on, and
appears only when it is complete, so that a store that can be opened can be trusted.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import TextSource
from glmja.corpus import check_paths, read_documents
from glmja.output_folder import complete_or_absent
from glmja.tokenizer import GLMTokenizer

_FORMAT = "1"  # counts up when the content of a store for the same text changes
_DOCUMENTS_PER_BATCH = 1024

log = logging.getLogger(__name__)


class TokenStore:
    """The tokens of a source.

    Attributes:
        tokens: All ids, (T,) uint32, memory-mapped.
        starts: Where each document starts, and the end, (documents + 1,) int64.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store."""
        self.tokens: NDArray[np.uint32] = np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r")
        self.starts: NDArray[np.int64] = np.load(folder / "starts.npy")

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, its EOS included."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, source: TextSource, tokenizer: GLMTokenizer, cache_dir: str | Path) -> TokenStore:
        """Opens the store of a source, making it first if need be.

        Args:
            source: The source.
            tokenizer: Its fingerprint is part of the store's name.
            cache_dir: Where stores lie.

        Raises:
            OSError: If a file does not exist or the disk has no room.
            ValueError: As `glmja.corpus.read_documents`.
        """
        folder = Path(cache_dir).expanduser() / _key(source, tokenizer)
        if not folder.is_dir():
            # another process, or another machine that shares the cache, may be faster
            with suppress(FileExistsError), complete_or_absent(folder) as partial:
                _write(source, tokenizer, partial)
        return cls(folder)


def _key(source: TextSource, tokenizer: GLMTokenizer) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {tokenizer.fingerprint} {source.text_key}".encode())
    for path in check_paths(source.files):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest() + path.suffix.encode())
    return digest.hexdigest()[:32]


def _write(source: TextSource, tokenizer: GLMTokenizer, folder: Path) -> None:
    documents = read_documents(source.files, source.text_key, f"tokenising {source.name}")
    starts = [0]
    with (folder / "tokens.bin").open("wb") as out:
        while batch := list(islice(documents, _DOCUMENTS_PER_BATCH)):
            encoded = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(batch, num_threads=-1)]
            np.concatenate([np.array(ids, dtype=np.uint32) for ids in encoded]).tofile(out)
            starts.extend(starts[-1] + np.cumsum([len(ids) for ids in encoded]))
    np.save(folder / "starts.npy", np.array(starts, dtype=np.int64))
    log.info("%s: %d documents, %d tokens", source.name, len(starts) - 1, starts[-1])
