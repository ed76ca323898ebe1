"""Whether a folder's model and tokenizer belong together, found out without loading weights."""

from __future__ import annotations

from pathlib import Path

from glmja.json_file import read_json
from glmja.layout import check_glm_config, layout_of, to_glm_config
from glmja.tokenizer import GLMTokenizer


def check_vocabulary(num_rows: int, tokenizer: GLMTokenizer, folder: str | Path) -> None:
    """Checks that every id of the tokenizer has a row in the embeddings.

    Raises:
        ValueError: If not; gives both numbers.
    """
    if len(tokenizer) > num_rows:
        raise ValueError(
            f"{folder}: the tokenizer makes {len(tokenizer)} ids but the model has only {num_rows} rows; they do not "
            "belong together (python -m glmja.resize_embeddings makes a model for a tokenizer)"
        )


def check_folder(folder: str | Path) -> GLMTokenizer:
    """Checks in a moment that a model folder is whole; returns its tokenizer.

    Raises:
        OSError: If there is no config or tokenizer.
        ValueError: If model and tokenizer do not belong together, or the architecture is unknown.
    """
    config = read_json(Path(folder) / "config.json")
    if layout_of(config) == "chatglm":
        config = to_glm_config(config)
    check_glm_config(config)
    tokenizer = GLMTokenizer.load(folder)
    check_vocabulary(config["vocab_size"], tokenizer, folder)
    return tokenizer
