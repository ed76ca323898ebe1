"""Joins the stores of single files to the store of a source with these files.

Several machines can tokenize one file each, with any program that distributes work, into caches that end up in one
folder. A run whose source has all of these files finds the parts there by the hashes of their content. Joined, they are
byte for byte the store that one machine would have made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_modules.stores.store import TOKENS, Store, finish_store


def join_stores(parts: Sequence[Store], reports: Sequence[dict[str, int]], folder: Path) -> None:
    """Writes the records of several stores, without those that occurred before.

    Args:
        parts: Stores of the files, in the order of the files.
        reports: What each part left out: `blank` and `repeated` records.
        folder: Folder to fill.
    """
    digests = np.concatenate([part.digests for part in parts])
    is_new = np.zeros(len(digests), dtype=np.bool_)
    is_new[np.unique(digests, return_index=True)[1]] = True  # the first of equal ones
    lengths: list[NDArray[np.int64]] = []
    begin = 0
    with (folder / TOKENS).open("wb") as out:
        for part in parts:
            end = begin + len(part.lengths)
            _write_records(part, is_new[begin:end], out)
            lengths.append(part.lengths[is_new[begin:end]])
            begin = end
    report = {name: sum(report[name] for report in reports) for name in ("blank", "repeated")}
    report["repeated"] += int((~is_new).sum())
    finish_store(folder, np.concatenate(lengths), digests[is_new], report)


def _write_records(part: Store, is_new: NDArray[np.bool_], out: BinaryIO) -> None:
    """Writes the tokens of some records, each stretch of neighbors at once."""
    bounds = np.flatnonzero(np.diff(is_new.astype(np.int8), prepend=0, append=0))
    for first, last in bounds.reshape(-1, 2):
        part.tokens[part.starts[first] : part.starts[last]].tofile(out)
