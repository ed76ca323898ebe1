"""Model folders: opened and verified once, and written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from glmja.errors import ModelError
from glmja.families.family import Family
from glmja.families.recognition import family_of, load_tokenizer
from glmja.files.checksums import sha256_of_file
from glmja.files.folder_kinds import check_model_folder, check_not_a_tokenizer
from glmja.files.json_files import read_json, write_json
from glmja.tokenization import huggingface
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.architecture import Architecture
from glmja.weights.architectures import architecture_of, layout_of
from glmja.weights.chatglm_layout import Config, Layout
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.config_kinds import check_kinds
from glmja.weights.options import MAX_SHARD_SIZE
from glmja.weights.quantization import check_not_quantized

_REPORTS = ("resize_report.json", "export_report.json")  # both record the tokenizer that the weights were made for

_MOST_PADDING = 1024  # rows; ChatGLM3 has 226


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose config and tokenizer were read and verified; its weights are opened at first use.

    Open a folder once and pass this object on: each file is then read once.

    Attributes:
        path: The folder.
        config: The model's config under the names of the running model, in either layout of the folder.
        tokenizer: The model's tokenizer.
    """

    path: Path
    config: Config
    tokenizer: GLMTokenizer
    _stored_config: Config

    @classmethod
    def open(cls, path: str | Path, family: str | None = None) -> ModelFolder:
        """Reads config and tokenizer, and checks that they belong together. No weight is read.

        Args:
            path: Folder of a model, in ChatGLM2/3's layout or `transformers`' Glm.
            family: Name of the model's family; recognized by the folder's files if None.

        Raises:
            OSError: If there is no config or tokenizer.
            ValueError: If the architecture or the family is unknown, or config, tokenizer and reports do not belong
                together.
        """
        path = Path(path)
        check_model_folder(path)
        check_not_a_tokenizer(path)
        stored = _read_config(path)
        tokenizer = load_tokenizer(path, family, stored)
        try:
            family_of(tokenizer).check_config(stored)
            config = architecture_of(stored).runtime_config(stored)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        check_vocabulary(config["vocab_size"], tokenizer, path)
        _check_control_ids(config, tokenizer, path)
        _check_reports(path, tokenizer)
        return cls(path, config, tokenizer, stored)

    @cached_property
    def stored(self) -> Checkpoint:
        """The weights as stored, under the names of the folder's own layout; headers only are read.

        Raises:
            ValueError: If weights are missing or damaged, or would need code to load.
        """
        return Checkpoint.open(self.path, self._stored_config)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights under the names of the running model.

        Raises:
            ValueError: As `stored`, or if the shape of a tensor is not that of the config.
        """
        return self.stored.as_glm()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights; see `Checkpoint.fingerprint`."""
        return self.stored.fingerprint()

    @property
    def architecture(self) -> Architecture:
        """The architecture of the model."""
        return architecture_of(self.config)

    @property
    def layout(self) -> Layout:
        """The layout of the stored weights."""
        return layout_of(self._stored_config)

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.tokenizer)

    @property
    def max_positions(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return int(self.config["max_position_embeddings"])


def _read_config(path: Path) -> Config:
    """Reads `config.json` and checks its values, before others come to conclusions from them."""
    config = read_json(path / "config.json")
    check_not_quantized(path, config)
    try:
        layout_of(config)
        check_kinds(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return config


def check_vocabulary(num_rows: int, tokenizer: GLMTokenizer, folder: str | Path) -> None:
    """Checks that every id of the tokenizer has a row in the embeddings, and that few rows have no id.

    Raises:
        ValueError: If not; gives both numbers.
    """
    if not len(tokenizer) <= num_rows <= len(tokenizer) + _MOST_PADDING:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} ids but the model has {num_rows} rows; they do not "
            "belong together (python -m glmja.resize_embeddings makes a model for a tokenizer)"
        )


def _check_control_ids(config: Config, tokenizer: GLMTokenizer, folder: Path) -> None:
    """Checks the settings that hold the id of a control token, on which positions may depend."""
    for key, name in architecture_of(config).control_ids.items():
        if config[key] != (expected := tokenizer.control_id(name)):
            raise ModelError(
                f"{folder}: config.json has {key} = {config[key]}, but the tokenizer's {name} is {expected}; they do "
                "not belong together"
            )


def write_model(
    folder: Path, model: Checkpoint, tokenizer: GLMTokenizer, layout: Layout, max_shard_size: int = MAX_SHARD_SIZE
) -> dict[str, object]:
    """Writes weights, config, tokenizer and generation config into an existing folder.

    Args:
        folder: Where to write.
        model: The weights, under the names of the running model.
        tokenizer: The model's tokenizer.
        layout: `glm` for `AutoModelForCausalLM` without remote code, `chatglm` for the original names.
        max_shard_size: Maximum bytes of a shard.

    Returns:
        The entries of a report that describe the tokenizer, and what a reader of the folder must know.
    """
    written = model.as_chatglm() if layout == "chatglm" else model
    written.save(folder, max_shard_size)
    left_out = huggingface.save(tokenizer, folder, model.config["max_position_embeddings"])
    if layout == "glm" and (name := model.architecture.auto_tokenizer):
        settings = read_json(folder / "tokenizer_config.json")
        settings.pop("auto_map", None)  # names a file of the original code
        write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": name})
    generation = {key: model.config[key] for key in ("eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", generation)
    normalizer, note = tokenizer.proto.normalizer_spec.name, model.architecture.notes.get(layout)
    return {
        "tokenizer_sha256": tokenizer.fingerprint,
        "hugging_face_tokenizer": huggingface.describe_saved(left_out),
        **({} if normalizer == "identity" else {"normalizer": f"{normalizer}: some characters are decoded as others"}),
        **({"note": note} if note else {}),
    }


def _check_reports(path: Path, tokenizer: GLMTokenizer) -> None:
    reports = [read_json(path / name) for name in _REPORTS if (path / name).is_file()]
    made_for = reports[0].get("tokenizer_sha256") if reports else tokenizer.fingerprint
    # tokens that other files add are in the tokenizer, but not in its file
    if made_for != tokenizer.fingerprint and made_for != sha256_of_file(path / tokenizer.file_name):
        raise ModelError(
            f"{path}: the weights were made for a tokenizer with the hash {str(made_for)[:16]}…, but the one beside "
            f"them has {tokenizer.fingerprint[:16]}…; put the right tokenizer back"
        )
