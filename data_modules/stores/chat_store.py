"""Conversations as token ids on disk, with a mark on each id that is to be learnt.

Like `data_modules.stores.token_store`, from which it differs in what a record is: a conversation that nothing can
be learnt from is left out and counted, with the places of the first ones, instead of ending the run.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from contextlib import closing, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import ChatSource
from data_modules.stores.chat_rendering import read_chunks, render_chunk
from data_modules.stores.worker_pool import map_in_processes
from glmja.errors import DataError
from glmja.files.checksums import open_sealed, seal
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder
from glmja.tokenization.tokenizer import GLMTokenizer

_FORMAT = "2"  # counts up when the content of a store for the same conversations changes
_PLACES_SHOWN = 3

log = logging.getLogger(__name__)


class ChatStore:
    """The conversations of a source.

    Attributes:
        folder: Named after everything that the content depends on.
        tokens: All ids, (T,) uint32, memory-mapped.
        learnt: Which of them are to be learnt, (T,) bool, memory-mapped.
        starts: Where each conversation starts, and the end, (conversations + 1,) int64.
        num_target_tokens: Ids to be learnt of each conversation, (conversations,) int64.
        num_dropped: Records from which nothing can be learnt.
        num_shortened: Conversations that lost turns, or the end of one, to fit into a row.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store."""
        self.folder = folder
        self.tokens: NDArray[np.uint32] = np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r")
        self.learnt: NDArray[np.bool_] = np.memmap(folder / "learnt.bin", dtype=np.bool_, mode="r")
        self.starts: NDArray[np.int64] = np.load(folder / "starts.npy")
        self.num_target_tokens: NDArray[np.int64] = np.load(folder / "num_target_tokens.npy")
        self.report: dict[str, Any] = read_json(folder / "report.json")
        self.num_dropped = sum(self.report["dropped"].values())
        self.num_shortened: int = self.report["shortened"]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each conversation."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, source: ChatSource, tokenizer: GLMTokenizer, row_len: int, cache_dir: str | Path) -> ChatStore:
        """Opens the store of a source, making it first if need be.

        Args:
            source: The source.
            tokenizer: Its fingerprint is part of the store's name.
            row_len: Most tokens of a conversation.
            cache_dir: Where stores lie.

        Raises:
            OSError: If a file does not exist or the disk has no room.
            ValueError: If a file is damaged or not UTF-8, or nothing is left; gives `path:line`.
        """
        source.check_files()
        key = hashlib.sha256(f"{_FORMAT} {tokenizer.fingerprint} {source.format} {row_len}".encode())
        for path in map(Path, source.files):
            with path.open("rb") as file:
                # the name too: it stands in the places of dropped records
                key.update(hashlib.file_digest(file, "sha256").digest() + str(path).encode())
        folder = Path(cache_dir).expanduser() / key.hexdigest()[:32]
        if not folder.is_dir():
            with suppress(FileExistsError), atomic_output_folder(folder) as partial_folder:
                _write(source, tokenizer, row_len, partial_folder)
        return open_sealed(cls, folder)

    def check_dropped(self, name: str, max_bad_share: float) -> None:
        """Logs what was dropped.

        Args:
            name: Of the source.
            max_bad_share: Share of the records that may be dropped.

        Raises:
            ValueError: If it was more; gives `path:line` of the first ones.
        """
        if not self.num_dropped:
            return
        total = self.num_dropped + len(self.lengths)
        reasons = ", ".join(
            f"{count} × {reason} ({'; '.join(self.report['places'][reason])})"
            for reason, count in self.report["dropped"].items()
        )
        found = f"source {name!r}: nothing can be learnt from {self.num_dropped} of {total} records"
        if self.num_dropped > max_bad_share * total:
            raise DataError(f"{found}; repair, or raise max_bad_share ({max_bad_share}): {self.report['first']}")
        log.warning("%s: %s", found, reasons)


def _write(source: ChatSource, tokenizer: GLMTokenizer, row_len: int, folder: Path) -> None:
    lengths: list[int] = []
    num_target_tokens: list[int] = []
    dropped: Counter[str] = Counter()
    places: defaultdict[str, list[str]] = defaultdict(list)
    num_shortened, first = 0, ""
    work = partial(render_chunk, tokenizer=tokenizer, chat_format=source.format, row_len=row_len)
    chunks = read_chunks([Path(path) for path in source.files], f"tokenising {source.name}")
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "learnt.bin").open("wb") as learnt,
        closing(map_in_processes(work, chunks)) as results,
    ):
        for result in results:
            result.tokens.tofile(tokens)
            result.learnt.tofile(learnt)
            ends = np.cumsum(result.lengths)
            num_target_tokens += [int(part.sum()) for part in np.split(result.learnt, ends[:-1])] if len(ends) else []
            lengths += result.lengths
            num_shortened += result.num_shortened
            for reason, place, detail in result.dropped:
                first = first or f"{place}: {detail}"
                dropped[reason] += 1
                if len(places[reason]) < _PLACES_SHOWN:
                    places[reason].append(place)
    if not lengths:
        raise DataError(f"source {source.name!r} holds no conversation to learn from: {first or 'no records'}")
    np.save(folder / "starts.npy", np.cumsum([0, *lengths], dtype=np.int64))
    np.save(folder / "num_target_tokens.npy", np.array(num_target_tokens, dtype=np.int64))
    write_json(
        folder / "report.json", {"dropped": dropped, "places": places, "first": first, "shortened": num_shortened}
    )
    seal(folder)
