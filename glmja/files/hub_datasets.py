"""Datasets of the Hugging Face Hub as sources of records; code that comes with a dataset is never run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glmja.errors import DataError
from glmja.files.checksums import sha256_of_file
from glmja.files.chunks import Chunk, row_chunks
from glmja.files.tables import ROWS_PER_READ, top_column

PREFIX = "hub:"
_OPTIONS = ("config", "split", "data_files", "revision", "key")
_SAVED = ("state.json", "dataset_dict.json")  # written by `Dataset.save_to_disk`


@dataclass(frozen=True)
class HubDataset:
    """A split of a dataset of the Hub, which is downloaded the first time it is read, or of a local folder.

    Attributes:
        name: Name on the Hub, or path of a local folder of data files or from `Dataset.save_to_disk`.
        config: Configuration of the dataset, if it has several.
        split: Split of the dataset, or a part of one such as `train[:10%]`.
        data_files: Names or patterns of files of the dataset; only these are downloaded. All if empty.
        revision: Branch, tag or commit of the dataset.
        key: Column of the text; None if it is that of the other files.
    """

    name: str
    config: str | None = None
    split: str = "train"
    data_files: tuple[str, ...] = ()
    revision: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        """Parses `hub:NAME` or `hub:NAME,OPTION=VALUE,…`, as commands take it in the place of a file.

        Raises:
            DataError: If the name is missing or an option is unknown.
        """
        name, *options = text.removeprefix(PREFIX).split(",")
        values: dict[str, Any] = {}
        for option in options:
            key, separator, value = option.partition("=")
            if key not in _OPTIONS or not separator or not value:
                raise DataError(f"{text}: {option!r} is no option; write NAME=VALUE with one of {', '.join(_OPTIONS)}")
            values[key] = (*values.get(key, ()), value) if key == "data_files" else value
        if not name:
            raise DataError(f"{text}: no name; write hub:NAME, as in hub:wikimedia/wikipedia,config=20231101.ja")
        return cls(name, **values)

    def __str__(self) -> str:
        """Returns the name and the split, for messages."""
        return f"dataset {self.name!r}, split {self.split!r}"

    @property
    def _is_saved(self) -> bool:
        return any((Path(self.name) / saved).is_file() for saved in _SAVED)

    def check(self) -> None:
        """Checks that the dataset, its configuration, its files and the split exist, without downloading them.

        Raises:
            DataError: If one does not; the message names the dataset.
        """
        given = [option for option in ("config", "data_files", "revision") if getattr(self, option)]
        if self._is_saved and given:
            raise DataError(
                f"{self}: the folder was written by Dataset.save_to_disk and has no {given[0]}; leave it out"
            )
        if self.revision and Path(self.name).exists():
            raise DataError(f"{self}: a local folder has no revisions; leave the revision out")
        if not self._is_saved:
            known = getattr(self._prepared("load_dataset_builder").config, "data_files", None) or {}
            gone = [name for name in re.findall(r"(?:^|\+)([\w.-]+)", self.split) if name not in (*known, "all")]
            if known and gone:
                raise DataError(f"{self}: unknown split {gone[0]!r}; known are {', '.join(map(str, known))}")

    @cached_property
    def rows(self) -> Any:
        """The dataset, with all its columns; loading it downloads what is not in the cache.

        Raises:
            DataError: If it cannot be loaded; the message names the dataset.
        """
        self.check()
        return self._prepared("load_dataset", split=self.split, keep_in_memory=False)

    def _prepared(self, function: str, **options: Any) -> Any:
        """Calls a function of `datasets`, whose exceptions have no common class."""
        try:
            import datasets  # noqa: PLC0415  # takes seconds, and few runs need it

            if self._is_saved:
                return _load_saved(self.name, self.split)
            files = list(self.data_files) or None
            call = getattr(datasets, function)
            return call(self.name, self.config, data_files=files, revision=self.revision, **options)
        except Exception as error:
            reasons = [" ".join(str(reason).split()) for reason in (error, error.__cause__) if reason]
            remedy = ""
            if type(error).__name__ == "DatasetGenerationError":  # its files do not agree on their columns
                remedy = "; download its files (hf download NAME) and name these instead"
            raise DataError(f"{self}: {': '.join(reasons)}{remedy}") from error

    @property
    def size(self) -> int:
        """Number of bytes of the rows, for progress bars."""
        return int(self.rows.data.nbytes)

    def content(self, limit: int | None = None) -> bytes:
        """Returns a hash of the files of the dataset, and what of them is read, for keys of caches.

        Args:
            limit: Maximum number of rows; None takes all.
        """
        count = len(self.rows) if limit is None else min(limit, len(self.rows))
        parts = [f"{self.split} {count}".encode()]  # a part of a split has the files of the whole
        for file in self.rows.cache_files:
            parts.append(bytes.fromhex(sha256_of_file(file["filename"])) + Path(file["filename"]).suffix.encode())
        return b"".join(parts)

    def chunks(self, column: str | None = None) -> Iterator[Chunk]:
        """Yields the rows in chunks.

        Args:
            column: Column to read, or `a.b` for the field `b` of the column `a`; all if None.

        Raises:
            DataError: If there is no such column.
        """
        rows = self.rows
        if column is not None:
            top = top_column(rows.column_names, column)
            if top is None:
                raise DataError(
                    f"dataset {self.name!r}: no column {column!r} (found: {rows.column_names}); "
                    "rename the column or set `text_key`"
                )
            rows = rows.select_columns([top])
        tables = rows.with_format("arrow").iter(ROWS_PER_READ)
        reads = ((table.to_pylist(), table.nbytes) for table in tables)
        size, num_rows = self.size, max(1, len(rows))
        yield from row_chunks(str(self), reads, lambda row: size * row // num_rows)


def _load_saved(folder: str, split: str) -> Any:
    """Loads a split, or a part of one, of a dataset that was saved to disk; a single one counts as `train`."""
    from datasets import DatasetDict, ReadInstruction, concatenate_datasets, load_from_disk  # noqa: PLC0415

    saved = load_from_disk(folder)
    splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    if not isinstance(saved, DatasetDict):
        splits.setdefault("train", saved)
    chosen = []
    for part in ReadInstruction.from_spec(split).to_absolute({name: len(rows) for name, rows in splits.items()}):
        rows = splits[part.splitname]
        chosen.append(rows.select(range(part.from_ or 0, len(rows) if part.to is None else part.to)))
    return concatenate_datasets(chosen)
