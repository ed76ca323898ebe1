"""Whether a folder's model and tokenizer belong together, found out without loading weights."""

from __future__ import annotations

from pathlib import Path

from glmja.errors import ModelError
from glmja.files.json_files import read_json
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import Config, check_glm_config, layout_of, to_glm_config

_REPORTS = ("resize_report.json", "export_report.json")  # say which tokenizer the weights were made for

_MOST_PADDING = 1024  # rows; ChatGLM3 has 226


def check_vocabulary(num_rows: int, tokenizer: GLMTokenizer, folder: str | Path) -> None:
    """Checks that every id of the tokenizer has a row in the embeddings, and hardly a row is without an id.

    Raises:
        ValueError: If not; gives both numbers.
    """
    if not len(tokenizer) <= num_rows <= len(tokenizer) + _MOST_PADDING:
        raise ModelError(
            f"{folder}: the tokenizer makes {len(tokenizer)} ids but the model has {num_rows} rows; they do not "
            "belong together (python -m glmja.resize_embeddings makes a model for a tokenizer)"
        )


def glm_config(folder: str | Path) -> Config:
    """The config of a folder under Glm's names.

    Raises:
        OSError: If there is none.
        ValueError: If the architecture is unknown.
    """
    config = read_json(Path(folder) / "config.json")
    try:
        if layout_of(config) == "chatglm":
            config = to_glm_config(config)
        check_glm_config(config)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    return config


def check_folder(folder: str | Path) -> GLMTokenizer:
    """Checks in a moment that a model folder is whole; returns its tokenizer.

    Raises:
        OSError: If there is no config or tokenizer.
        ValueError: If model and tokenizer do not belong together, or the architecture is unknown.
    """
    config = glm_config(folder)
    tokenizer = GLMTokenizer.load(folder)
    check_vocabulary(config["vocab_size"], tokenizer, folder)
    reports = [read_json(Path(folder) / name) for name in _REPORTS if (Path(folder) / name).is_file()]
    made_for = reports[0].get("tokenizer_sha256") if reports else tokenizer.fingerprint
    if made_for != tokenizer.fingerprint:
        raise ModelError(
            f"{folder}: the weights were made for a tokenizer with the hash {str(made_for)[:16]}…, but the one beside "
            f"them has {tokenizer.fingerprint[:16]}…; put the right tokenizer back"
        )
    return tokenizer
