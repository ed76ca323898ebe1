"""Documents as token ids on disk, made once and then memory-mapped.

Ids are 4 bytes each, one document after the other, every one with its EOS; a second file holds
where each document starts. The folder is named after everything that its content depends on, and
appears only when it is complete, so that a store that can be opened can be trusted.

One process reads and writes; the others parse and encode. BPE takes longer per token the longer its text is, so
documents are encoded in parts. That changes no id: the cuts are where no piece of the vocabulary could join the two
characters, so no merge would have crossed them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from data_modules.sources import TextSource
from data_modules.worker_pool import map_in_processes
from glmja.corpus import Chunk, check_paths, documents_of, load_hub, no_text, read_chunks, read_hub_chunks
from glmja.output_folder import complete_or_absent
from glmja.tokenizer import GLMTokenizer
from glmja.vocabulary import WORD_BOUNDARY, isolated_processor

_FORMAT = "1"  # counts up when the content of a store for the same text changes
_PART_LEN = 256  # characters of a part, or a few more; from 100 to 800 the speed is the same
_BPE = 2  # `TrainerSpec.ModelType.BPE`

log = logging.getLogger(__name__)


class TokenStore:
    """The tokens of a source.

    Attributes:
        folder: Named after everything that the content depends on.
        tokens: All ids, (T,) uint32, memory-mapped.
        starts: Where each document starts, and the end, (documents + 1,) int64.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store."""
        self.folder = folder
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
            ValueError: As `glmja.corpus.read_documents` and `glmja.corpus.load_hub`.
        """
        dataset = load_hub(source.hub, source.hub_config, source.split, source.text_key) if source.hub else None
        folder = Path(cache_dir).expanduser() / _key(source, dataset, tokenizer)
        if not folder.is_dir():
            # another process, or another machine that shares the cache, may be faster
            with suppress(FileExistsError), complete_or_absent(folder) as partial:
                _write(source, dataset, tokenizer, partial, num_workers)
        return cls(folder)


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
    encoder = _Encoder(tokenizer, source.text_key)
    lengths = [np.zeros(1, dtype=np.int64)]
    with (
        (folder / "tokens.bin").open("wb") as out,
        closing(_chunks(source, dataset)) as chunks,
        closing(map_in_processes(encoder, chunks, num_workers)) as encoded,
    ):
        for ids, lengths_of_chunk in encoded:
            assert (ids[np.cumsum(lengths_of_chunk) - 1] == tokenizer.eos_id).all()
            ids.tofile(out)
            lengths.append(lengths_of_chunk)
    starts = np.cumsum(np.concatenate(lengths))
    if len(starts) == 1:
        raise no_text(source.files or [_origin(source)])
    np.save(folder / "starts.npy", starts)
    log.info("%s: %d documents, %d tokens", source.name, len(starts) - 1, starts[-1])


def _origin(source: TextSource) -> str:
    return f"dataset {source.hub!r}, split {source.split!r}"


def _chunks(source: TextSource, dataset: Any) -> Generator[Chunk, None, None]:
    description = f"tokenising {source.name}"
    if dataset is None:
        return read_chunks(source.files, source.text_key, description)
    return read_hub_chunks(dataset, _origin(source), source.text_key, description)


class _Encoder:
    """Chunks to ids: of each document `tokenizer.encode(text)` and the EOS."""

    def __init__(self, tokenizer: GLMTokenizer, text_key: str) -> None:
        self.text_key, self.eos_id = text_key, tokenizer.eos_id
        self.cutter = _Cutter(tokenizer)
        self.processor = self.cutter.processor

    def __call__(self, chunk: Chunk) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all documents of the chunk, and the length of each."""
        parts: list[str] = []
        first_parts: list[int] = []
        for text in documents_of(chunk, self.text_key):
            first_parts.append(len(parts))
            parts.extend(self.cutter.parts(text))
        if not parts:
            return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64)
        encoded = self.processor.encode(parts, out_type="numpy", num_threads=1)
        lengths = np.add.reduceat([len(ids) for ids in encoded], first_parts)
        ids = np.insert(np.concatenate(encoded), np.cumsum(lengths), self.eos_id)
        return ids.astype(np.uint32), lengths + 1


class _Cutter:
    """Cuts a text such that the ids of its parts, one after the other, are those of the text.

    Attributes:
        processor: Encodes the parts.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        proto = tokenizer.proto
        normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
        # What the argument needs: merges are the only thing that looks at two characters at once. A normaliser could,
        # and so does the fusion of unknown characters in a vocabulary without bytes.
        self.cuts = (
            trainer.model_type == _BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and normalizer.escape_whitespaces
        )
        self.prefix = WORD_BOUNDARY if normalizer.add_dummy_prefix else ""
        pieces = [p.piece for p in proto.pieces] if self.cuts else []
        self.joined = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
        if self.cuts:
            self.processor = isolated_processor(proto)
        else:
            self.processor = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def parts(self, text: str) -> Iterator[str]:
        """Yields the parts of a text, with what the processor would do to it done."""
        if not self.cuts:
            yield text
            return
        text = self.prefix + text.replace(" ", WORD_BOUNDARY)
        start = 0
        while start < len(text):
            end = start + _PART_LEN
            while end < len(text) and text[end - 1 : end + 1] in self.joined:
                end += 1
            yield text[start:end]
            start = end
