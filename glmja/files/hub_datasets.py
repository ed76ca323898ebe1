"""Documents from Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.files.records import ROWS_PER_READ, Chunk, row_chunks


def load_hub(name: str, config: str | None = None, split: str = "train", text_key: str = "text") -> Any:
    """Loads a Hugging Face dataset, which downloads it the first time; never runs code that comes with it.

    Args:
        name: Name on the Hub, or a local folder of data files.
        config: Configuration of the dataset, if it has several.
        split: Split of the dataset, or a part of one.
        text_key: Column of the text.

    Raises:
        ValueError: If there is no such dataset, configuration, split or column; the message names the dataset.
    """
    try:
        from datasets import load_dataset  # noqa: PLC0415  # takes seconds, and few runs need it

        dataset = load_dataset(name, config, split=split, keep_in_memory=False)
    except Exception as error:  # the exceptions of datasets have no common class
        raise DataError(f"dataset {name!r}, split {split!r}: {' '.join(str(error).split())}") from error
    if text_key not in dataset.column_names:
        raise DataError(
            f"dataset {name!r}: no column {text_key!r} (found: {dataset.column_names}); "
            "rename the column or set `text_key`"
        )
    return dataset


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
    tables = dataset.select_columns([text_key]).with_format("arrow").iter(ROWS_PER_READ)
    reads = ((table.to_pylist(), table.nbytes) for table in tables)
    with progress(description, len(dataset), "rows") as advance:
        done = 0
        for chunk in row_chunks(origin, reads, lambda num_rows: num_rows):
            advance(chunk.done - done)
            done = chunk.done
            yield chunk
