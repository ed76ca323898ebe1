"""The common part of token and chat stores: a folder of token ids, created once and then memory-mapped.

The folder is named by a key, a hash of everything that its content depends on, and appears only when it is complete.
Checksums of its files are verified when it is opened, so that data that a disk damaged is not trained on. The price is
one reading of the store, besides that of the source files, whose checksums are part of the key. One process has to pay
it: the others of a run open the store by its key, with `verify=False`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from glmja.errors import DataError
from glmja.files.checksums import CHECKSUM_FILE, changed_files, write_checksums
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder

TOKENS, STARTS, REPORT = "tokens.bin", "starts.npy", "report.json"
_DIGESTS, _RECORDS = "digests.npy", "records.npy"


class Store:
    """Token ids of the records (documents or conversations) of a source.

    Attributes:
        folder: Folder of the store; its name is the key.
        tokens: Ids of all records, one after the other, (T,) uint32, memory-mapped.
        starts: Offset of each record in `tokens`, and T at the end, (records + 1,) int64.
        former_key: Key that an earlier version gave to the same content, if its store is in the cache as well.
    """

    former_key: str | None = None

    def __init__(self, folder: Path) -> None:
        """Opens a complete store without verifying it."""
        self.folder = folder
        self.tokens: NDArray[np.uint32] = np.memmap(folder / TOKENS, dtype=np.uint32, mode="r")
        self.starts: NDArray[np.int64] = np.load(folder / STARTS)

    @property
    def key(self) -> str:
        """Hash of everything that the content depends on."""
        return self.folder.name

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each record, (records,) int64."""
        return np.diff(self.starts)

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """A hash of the tokens of each record, (records,) uint64."""
        if (self.folder / _DIGESTS).is_file():
            return np.load(self.folder / _DIGESTS, mmap_mode="r")
        # stores written before `digests.npy` existed lack it
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        return as_numbers([digest_of(self.tokens[start:end]) for start, end in bounds])

    def find_former(self, cache_dir: str | Path, keys: Sequence[str]) -> None:
        """Sets `former_key` if the cache has a store of one of these keys whose tokens are those of this store."""
        for key in keys:
            former = Path(cache_dir).expanduser() / key / CHECKSUM_FILE
            if not former.is_file():
                continue
            files = {name: checksum for name, checksum in read_json(former).items() if name not in (REPORT, _DIGESTS)}
            if files.items() <= read_json(self.folder / CHECKSUM_FILE).items():
                self.former_key = key
                return

    @cached_property
    def records(self) -> NDArray[np.int64] | None:
        """Number of the source's record that each entry was made of, ascending; None if each is one of its own."""
        return np.load(self.folder / _RECORDS) if (self.folder / _RECORDS).is_file() else None

    @classmethod
    def open(cls, cache_dir: str | Path, key: str, verify: bool = True) -> Self:
        """Opens an existing store by its key, without reading the source files.

        Args:
            cache_dir: Folder that holds the stores.
            key: Key of the store.
            verify: Whether to compare the files of the store with their checksums, which reads them once.

        Raises:
            FileNotFoundError: If there is no such store.
            ValueError: If a file of the store is missing, new or changed; the message names it.
        """
        folder = Path(cache_dir).expanduser() / key
        if not folder.is_dir():
            raise FileNotFoundError(f"no tokenized source {folder}; every machine of a run needs it in its cache_dir")
        if verify:
            try:
                changed = changed_files(folder)
            except (ValueError, OSError) as error:
                raise _damaged(folder, str(error)) from error
            if changed:
                raise _damaged(folder, f"{changed[0]!r} does not match its checksum")
        return cls(folder)

    @classmethod
    def _open_or_create(cls, cache_dir: str | Path, key: str, write: Callable[[Path], None]) -> Self:
        """Opens the store with this key; if there is none, `write` fills its folder first."""
        folder = Path(cache_dir).expanduser() / key
        if not folder.is_dir():
            # another process, or another machine that shares the cache, may be faster
            with suppress(FileExistsError), atomic_output_folder(folder) as partial_folder:
                write(partial_folder)
        return cls.open(cache_dir, key)


def finish_store(
    folder: Path,
    lengths: Sequence[int] | NDArray[np.int64],
    digests: NDArray[np.uint64],
    report: Mapping[str, object],
    num_examples: Sequence[int] = (),
) -> None:
    """Completes a folder that holds `TOKENS` already.

    Args:
        folder: Folder of the store.
        lengths: Number of tokens of each record.
        digests: A hash of each record, as `as_numbers` returns them.
        report: Content of `REPORT`.
        num_examples: How many entries each record of the source became; one each if empty.
    """
    if any(count > 1 for count in num_examples):
        np.save(folder / _RECORDS, np.repeat(np.arange(len(num_examples)), num_examples))
    np.save(folder / _DIGESTS, digests)
    np.save(folder / STARTS, np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64))
    write_json(folder / REPORT, dict(report))
    write_checksums(folder)


def digest_of(ids: NDArray[np.uint32]) -> bytes:
    """Returns a hash that is equal for records with equal tokens."""
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()


def as_numbers(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    """Returns the first half of each `digest_of`: of 10^8 records, two collide with a probability below 0.001."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype="<u8").astype(np.uint64)


def _damaged(folder: Path, why: str) -> DataError:
    return DataError(f"the cache {folder} is damaged ({why}); remove it, and it will be created again")
