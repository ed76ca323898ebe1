"""Selects records to hold out for validation, and leaves out of training those that equal one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.stores.store import Store
from glmja.errors import DataError

Numbers = NDArray[np.int64]

_FEW = 20  # records; as `min_documents` of `glmja.evaluation.retention.RetentionLimits`, which needs as many
_SMALLEST_PART = 20  # a small source holds out a twentieth at least

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The records of a source.

    Attributes:
        name: Name of the source.
        store: Store of the records to train on.
        used: Numbers of the records to train on, sorted.
        held_store: Store of the records to validate on: `store`, or that of the validation files.
        held: Numbers of the records to validate on, sorted.
        repeated: For each source with held-out records, how many records of this source are left out of training
            because they are equal to one of those; a record may count for several sources.
        num_left_out: Number of records that are left out for this reason.
    """

    name: str
    store: Store
    used: Numbers
    held_store: Store
    held: Numbers
    repeated: Mapping[str, int]
    num_left_out: int = 0

    @property
    def num_held(self) -> int:
        """Number of records of `store` that are held out."""
        return len(self.held) if self.held_store is self.store else 0


def split(num_documents: int, val_share: float, seed: tuple[int, ...], name: str) -> tuple[Numbers, Numbers]:
    """Splits documents at random into those to train on and those to hold out.

    Args:
        num_documents: Number of documents.
        val_share: Share to hold out. Unless it is 0, at least 20 documents are, or 5 % if these are fewer, or one.
        seed: Random seed.
        name: Name of the source, for the message.

    Returns:
        Sorted numbers of the documents to train on, and of those held out.

    Raises:
        ValueError: If no document would be left to train on.
    """
    enough = min(_FEW, num_documents // _SMALLEST_PART)
    num_held_out = max(1, enough, round(num_documents * val_share)) if val_share else 0
    if num_documents <= num_held_out:
        raise ValueError(
            f"source {name!r} has {num_documents} document; one more is needed to hold one out "
            f"(`val_share` {val_share})"
        )
    order = np.random.default_rng(seed).permutation(num_documents)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


def split_source(name: str, stores: Sequence[Store], val_share: float, seed: tuple[int, ...]) -> Split:
    """Splits the records of a source.

    Args:
        name: Name of the source.
        stores: Store of the source, and that of its validation files, if it has any.
        val_share: Share to hold out of a source without validation files.
        seed: Random seed.

    Raises:
        ValueError: As `split`.
    """
    records = stores[0].records
    num_records = len(stores[0].lengths) if records is None else int(records[-1]) + 1
    used, held = split(num_records, val_share if len(stores) == 1 else 0, seed, name)
    if records is not None:  # examples of one conversation stay together: the later ones hold the earlier ones
        used, held = np.flatnonzero(np.isin(records, used)), np.flatnonzero(np.isin(records, held))
    if len(stores) > 1:
        held = np.arange(len(stores[1].lengths))
    return Split(name, stores[0], used, stores[-1], held, {})


def leave_out_held(splits: Sequence[Split]) -> list[Split]:
    """Removes from training what is equal to a held-out record of any source, and warns with the shares.

    Raises:
        ValueError: If nothing would be left to train on of a source.
    """
    held = {part.name: part.held_store.digests[part.held] for part in splits if len(part.held)}
    return [_without(part, held) for part in splits]


def warn_of_few(splits: Sequence[Split], languages: Sequence[str]) -> None:
    """Warns of languages that are validated on few records: the change of their mean then depends on chance.

    Args:
        splits: The split of each source.
        languages: Language of each source.
    """
    counts: dict[str, int] = {}
    for part, language in zip(splits, languages, strict=True):
        counts[language] = counts.get(language, 0) + len(part.held)
    few = [f"{language} {count}" for language, count in counts.items() if 0 < count < _FEW]
    if few:
        log.warning(
            "few held-out records (%s): with fewer than %d of a language, a change of its validation may be chance; "
            "raise val_share, or give val_files", ", ".join(few), _FEW,
        )  # fmt: skip


def _without(part: Split, held: Mapping[str, NDArray[np.uint64]]) -> Split:
    digests = part.store.digests[part.used]
    found = {name: np.isin(digests, others) for name, others in held.items()}
    repeated = {name: int(equal.sum()) for name, equal in found.items() if equal.any()}
    if not repeated:
        return part
    left_out = np.logical_or.reduce(list(found.values()))
    total, num_left_out = len(part.used), int(left_out.sum())
    pairs = ", ".join(f"{count} by {name!r}" for name, count in repeated.items())
    if num_left_out == total:
        raise DataError(
            f"source {part.name!r}: all of its {total} records are held out for validation ({pairs}), and nothing is "
            "left to train on; take other val_files or sources"
        )
    log.warning(
        "source %r: %d of %d records (%.2f %%) are left out of training because equal ones are held out (%s)",
        part.name, num_left_out, total, 100 * num_left_out / total, pairs,
    )  # fmt: skip
    return Split(part.name, part.store, part.used[~left_out], part.held_store, part.held, repeated, num_left_out)
