"""Conversations as token ids on disk, with a loss mask that selects the target tokens.

A conversation without any target token is dropped and counted, with the places of the first ones, instead of ending
the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import ChatSource
from data_modules.stores.chat_rendering import Reading, Rendered, render_chunk, without_targets
from data_modules.stores.store import REPORT, TOKENS, Store, as_numbers, finish_store
from data_modules.stores.worker_pool import map_in_processes
from glmja.errors import DataError
from glmja.files.checksums import sha256_of_file
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import DataFile
from glmja.files.json_files import read_json
from glmja.files.records import read_chunks
from glmja.tokenization.tokenizer import GLMTokenizer

_FORMAT = "4"  # increase when the content of a store for the same conversations changes
_LOSS_MASK, _NUM_TARGETS = "learnt.bin", "num_target_tokens.npy"  # the names that existing stores have
_PLACES_SHOWN = 3
_KEYS_SHOWN = 8

log = logging.getLogger(__name__)


@dataclass
class ChatReport:
    """Records that were dropped or shortened when a store was created.

    Attributes:
        dropped: Number of dropped records by reason.
        places: The first places, `path:line`, of each reason.
        first: Place and details of the first dropped record; empty if there is none.
        shortened: Number of conversations that were shortened to fit into a row.
        files: Paths of the files, with which the places begin.
        unknown_keys: Number of records with each key that no format knows.
    """

    dropped: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    first: str = ""
    shortened: int = 0
    files: list[str] = field(default_factory=list)
    unknown_keys: dict[str, int] = field(default_factory=dict)

    def name_files(self, files: Sequence[str]) -> None:
        """Replaces the paths with which the places begin, since the files may have been moved."""
        if files == self.files:
            return
        moved = dict(zip(self.files, files, strict=True))
        self.places = {reason: [_moved(place, moved) for place in places] for reason, places in self.places.items()}
        self.first, self.files = _moved(self.first, moved), list(files)

    def add(self, part: Rendered) -> None:
        """Counts the records of a rendered chunk."""
        self.shortened += part.num_shortened
        for key, count in part.unknown_keys.items():
            self.unknown_keys[key] = self.unknown_keys.get(key, 0) + count
        for reason, place, detail in part.dropped:
            self.first = self.first or f"{place}: {detail}"
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            if self.dropped[reason] <= _PLACES_SHOWN:
                self.places.setdefault(reason, []).append(place)


class ChatStore(Store):
    """The conversations of a source as token ids.

    Attributes:
        loss_mask: Whether each token is a target of the loss, (T,) bool, memory-mapped.
        num_target_tokens: Number of target tokens of each conversation, (conversations,) int64.
        report: Records that were dropped or shortened.
        num_dropped: Number of records without any target token.
        num_shortened: Number of conversations that lost turns, or the end of one, to fit into a row.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a complete store without verifying it."""
        super().__init__(folder)
        self.loss_mask: NDArray[np.bool_] = np.memmap(folder / _LOSS_MASK, dtype=np.bool_, mode="r")
        self.num_target_tokens: NDArray[np.int64] = np.load(folder / _NUM_TARGETS)
        self.report = ChatReport(**read_json(folder / REPORT))
        self.num_dropped, self.num_shortened = sum(self.report.dropped.values()), self.report.shortened

    @classmethod
    def of(cls, source: ChatSource, tokenizer: GLMTokenizer, row_len: int, cache_dir: str | Path) -> ChatStore:
        """Opens the store of a source, and creates it first if there is none. Reads the source files for the key.

        Args:
            source: Source of the conversations.
            tokenizer: Tokenizer; its fingerprint is part of the key.
            row_len: Maximum number of tokens of a conversation.
            cache_dir: Folder that holds the stores.

        Raises:
            ChildProcessError: If a worker process dies, for example when the machine runs out of memory.
            OSError: If a file does not exist or the disk has no room.
            ValueError: If a file is damaged or not UTF-8, or no conversation has a target token; gives `path:line`.
        """
        files = source.find_files()
        write = partial(_write, source, files, tokenizer, row_len)
        key, *former_keys = _keys(source, files, tokenizer, row_len)
        store = cls._open_or_create(cache_dir, key, write)
        store.find_former(cache_dir, former_keys)
        store.report.name_files([str(file) for file in files])
        return store

    def check_dropped(self, name: str, max_bad_share: float) -> None:
        """Logs how many records were dropped, and why, and which keys of the others have no effect.

        Args:
            name: Name of the source.
            max_bad_share: Maximum share of the records that may be dropped.

        Raises:
            ValueError: If more were dropped; gives `path:line` of the first one.
        """
        num_kept = len(self.lengths) if self.records is None else len(np.unique(self.records))
        total = self.num_dropped + num_kept
        if self.report.unknown_keys:
            common = sorted(self.report.unknown_keys.items(), key=lambda item: (-item[1], item[0]))
            shares = [f"{key} ({100 * count / total:.3g} % of the records)" for key, count in common[:_KEYS_SHOWN]]
            more = f" and {len(common) - _KEYS_SHOWN} more" if len(common) > _KEYS_SHOWN else ""
            log.warning("source %r: keys without effect: %s%s", name, ", ".join(shares), more)
        if not self.num_dropped:
            return
        found = f"source {name!r}: no target tokens in {self.num_dropped} of {total} records"
        if self.num_dropped > max_bad_share * total:
            raise DataError(f"{found}; repair, or raise `max_bad_share` ({max_bad_share}): {self.report.first}")
        reasons = (
            f"{count} × {reason} ({'; '.join(self.report.places[reason])})"
            for reason, count in self.report.dropped.items()
        )
        log.warning("%s: %s", found, ", ".join(reasons))


def _moved(place: str, moved: Mapping[str, str]) -> str:
    for before, after in moved.items():
        if place.startswith(f"{before}:"):
            return after + place.removeprefix(before)
    return place


def _keys(source: ChatSource, files: Sequence[DataFile], tokenizer: GLMTokenizer, row_len: int) -> list[str]:
    """Hashes the tokenizer, the settings and the content of the files.

    Returns:
        The key, and those of earlier versions: 3 dropped conversations with long prompts instead of shortening these,
        and 2 also hashed the paths as they were written.
    """
    settings = {_FORMAT: _settings(source, row_len), "3": _settings(source, row_len), "2": f"{source.format} {row_len}"}
    digests = {v: hashlib.sha256(f"{v} {tokenizer.fingerprint} {of_it}".encode()) for v, of_it in settings.items()}
    for file in files:
        content = file.content() if isinstance(file, HubDataset) else bytes.fromhex(sha256_of_file(file))
        kind = "" if isinstance(file, HubDataset) else file.kind
        for version, digest in digests.items():
            digest.update(content + (str(file) if version == "2" else kind).encode())
    return [digest.hexdigest()[:32] for digest in digests.values()]


def _settings(source: ChatSource, row_len: int) -> str:
    return json.dumps([source.format, sorted(source.columns.items()), source.learn, row_len, source.limit])


def _write(source: ChatSource, files: Sequence[DataFile], tokenizer: GLMTokenizer, row_len: int, folder: Path) -> None:
    lengths: list[int] = []
    num_target_tokens: list[int] = []
    digests: list[bytes] = []
    num_examples: list[int] = []
    report = ChatReport(files=list(map(str, files)))
    reading = Reading(source.format, source.columns, source.learn, row_len)
    render = partial(render_chunk, tokenizer=tokenizer, reading=reading)
    chunks = read_chunks(files, description=f"tokenizing {source.name}", limit=source.limit)
    with (
        (folder / TOKENS).open("wb") as tokens,
        (folder / _LOSS_MASK).open("wb") as loss_mask,
        closing(map_in_processes(render, chunks)) as rendered,
    ):
        for part in rendered:
            part.tokens.tofile(tokens)
            part.loss_mask.tofile(loss_mask)
            lengths += part.lengths
            num_target_tokens += part.num_target_tokens
            digests += part.digests
            num_examples += part.num_examples
            report.add(part)
    if not lengths:
        raise without_targets(source, report.first)
    np.save(folder / _NUM_TARGETS, np.array(num_target_tokens, dtype=np.int64))
    finish_store(folder, lengths, as_numbers(digests), vars(report), num_examples)
