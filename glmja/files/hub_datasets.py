"""Documents from Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.files.records import Chunk, row_chunks
from glmja.files.tables import ROWS_PER_READ, top_column


def load_hub(
    name: str, config: str | None = None, split: str = "train", text_key: str = "text", limit: int | None = None
) -> Any:
    """Loads a Hugging Face dataset, which downloads it the first time; never runs code that comes with it.

    Args:
        name: Name on the Hub, or a local folder of data files or from `Dataset.save_to_disk`.
        config: Configuration of the dataset, if it has several.
        split: Split of the dataset, or a part of one.
        text_key: Column of the text; `a.b` is the field `b` of the column `a`.
        limit: Maximum number of rows; None takes all.

    Raises:
        ValueError: If there is no such dataset, configuration, split or column; the message names the dataset.
    """
    try:
        from datasets import load_dataset  # noqa: PLC0415  # takes seconds, and few runs need it

        if any((Path(name) / saved).is_file() for saved in ("state.json", "dataset_dict.json")):
            dataset = _load_saved(name, split)
        else:
            dataset = load_dataset(name, config, split=split, keep_in_memory=False)
    except Exception as error:  # the exceptions of datasets have no common class
        raise DataError(f"dataset {name!r}, split {split!r}: {' '.join(str(error).split())}") from error
    if top_column(dataset.column_names, text_key) is None:
        raise DataError(
            f"dataset {name!r}: no column {text_key!r} (found: {dataset.column_names}); "
            "rename the column or set `text_key`"
        )
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


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


def read_hub_chunks(
    dataset: Any, origin: str, text_key: str = "text", description: str | None = None
) -> Generator[Chunk, None, None]:
    """Yields a column of a dataset as chunks for `glmja.files.documents.documents_of`.

    Args:
        dataset: Dataset from `load_hub`.
        origin: Name of the dataset, for error messages.
        text_key: Column of the text.
        description: Text of a progress bar over the rows read; no progress bar if None.
    """
    column = top_column(dataset.column_names, text_key)
    tables = dataset.select_columns([column]).with_format("arrow").iter(ROWS_PER_READ)
    reads = ((table.to_pylist(), table.nbytes) for table in tables)
    with progress(description, len(dataset), "rows") as advance:
        done = 0
        for chunk in row_chunks(origin, reads, lambda num_rows: num_rows):
            advance(chunk.done - done)
            done = chunk.done
            yield chunk
