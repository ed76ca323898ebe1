"""Language packs: what training added to a model, without the model.

A model that was extended by `resize_embeddings` and trained with adapters shares almost all weights with its stock
model: the transformer, and the embedding rows of the old pieces if these were frozen. A pack holds the rest: the
adapters, the embedding rows that the stock model lacks or that were trained, and the tokenizer. It is bound to its base
by a hash of the shared weights only, so it can be applied to the stock model as well as to the extended one.

This is not peft's adapter format: `PeftModel.from_pretrained` expects a base whose embeddings already have the new
rows, and its trainable token rows are indices into them, so a pack for the stock model cannot be written in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import torch
from safetensors import safe_open

from glmja.errors import ModelError
from glmja.families.recognition import load_tokenizer
from glmja.files import folder_kinds
from glmja.files.checksums import sha256_of_file
from glmja.files.json_files import read_json, write_json
from glmja.tokenization import huggingface
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import Config
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import dtype_name, dtype_named
from glmja.weights.merging import LoraScaling, merge
from glmja.weights.options import DtypeName
from glmja.weights.peft_names import is_lora
from glmja.weights.tensors import JoinedTensor, MemoryTensor, Part, TensorSource, cast
from glmja.weights.weight_files import write_safetensors

FORMAT = 1
DESCRIPTION = folder_kinds.PACK
WEIGHTS = "pack.safetensors"


@dataclass(frozen=True)
class Binding:
    """Metadata that identifies the base of a pack.

    Attributes:
        pack_format: Version of the format.
        shared_sha256: Hash of the weights that base and trained model share; see `shared_sha256`.
        rows_kept_of_stock_model: Number of embedding rows of the stock model's pieces and control tokens.
        first_row: The first embedding row that the pack holds.
        rows_dtype: Dtype of the pack's rows, and of the model that is made from it.
        base_dtype: Dtype of the model that was trained, in which hashes are compared.
        weights_sha256: Checksum of the pack's weights.
        tokenizer_sha256: Fingerprint of the pack's tokenizer.
        hugging_face_tokenizer: Whether Hugging Face's tokenizer files were written, or why not.
    """

    pack_format: int
    shared_sha256: str
    rows_kept_of_stock_model: int
    first_row: int
    rows_dtype: str
    base_dtype: str
    weights_sha256: str
    tokenizer_sha256: str
    hugging_face_tokenizer: str = ""


def shared_sha256(model: Checkpoint, num_kept: int, dtype: torch.dtype) -> str:
    """Returns a hash of the weights that a model shares with its extensions: all but embedding rows from `num_kept` on.

    Args:
        model: The weights under the names of the running model.
        num_kept: Number of rows of the stock model's pieces and control tokens.
        dtype: Dtype of the extended model, in which both are compared.
    """
    kept: dict[str, TensorSource] = {
        name: JoinedTensor([Part(model.tensors[name], 0, num_kept)]) for name in model.architecture.both_embeddings
    }
    shared = {name: cast(source, dtype) for name, source in (model.tensors | kept).items()}
    return Checkpoint(model.folder, {}, shared).fingerprint()


def write(
    folder: Path,
    base: Checkpoint,
    trained: Mapping[str, TensorSource],
    lora: Mapping[str, object] | None,
    tuning: str,
    embeddings: str,
    tokenizer: GLMTokenizer,
    dtype: torch.dtype,
) -> Binding:
    """Writes a pack into an existing folder.

    Args:
        folder: The folder to write into.
        base: The weights that the run started from, under the names of the running model.
        trained: The trained tensors, as `glmja.runs.trained_state` returns them; adapters are stored as trained.
        lora: The adapters' settings that the run saved; None if it had no adapters.
        tuning: How the transformer was trained.
        embeddings: How the embeddings were trained.
        tokenizer: The tokenizer of the run.
        dtype: Dtype of the written rows, and of the model that is made from the pack.

    Raises:
        ModelError: If the run trained the transformer in full.
    """
    if tuning == "full":
        raise ModelError("the run trained the transformer in full, so a pack would be the model; set `format` to glm")
    num_kept, base_dtype = tokenizer.new_ids.start, base.dtype
    first = 0 if embeddings == "full" else num_kept
    weights = merge(base, trained, LoraScaling.of(lora) if lora else None, tokenizer.new_ids, dtype).tensors
    embedding_rows = {
        name: JoinedTensor([Part(weights[name], first, weights[name].shape[0])])
        for name in base.architecture.both_embeddings
    }
    adapters = {name: source for name, source in trained.items() if is_lora(name)}
    write_safetensors(folder / WEIGHTS, embedding_rows | adapters, lambda _: None)
    left_out = huggingface.save(tokenizer, folder, base.config["max_position_embeddings"])
    binding = Binding(
        FORMAT,
        shared_sha256(base, num_kept, base_dtype),
        num_kept,
        first,
        dtype_name(dtype),
        dtype_name(base_dtype),
        sha256_of_file(folder / WEIGHTS),
        tokenizer.fingerprint,
        huggingface.describe_saved(left_out),
    )
    write_json(folder / DESCRIPTION, {**asdict(binding), "lora": lora, "config": base.config})
    return binding


@dataclass(frozen=True)
class _Description:
    """The content of `pack.json`."""

    binding: Binding
    lora: LoraScaling | None
    config: Config  # of the model that was trained


def _read(pack: Path) -> _Description:
    folder_kinds.check_pack_folder(pack)
    path = pack / DESCRIPTION
    content = read_json(path)
    kinds = {field.name: int if field.type == "int" else str for field in fields(Binding) if field.default is MISSING}
    if content.get("pack_format") != FORMAT or not content.keys() >= {*kinds, "lora", "config"}:
        raise ModelError(f"{path} does not describe a language pack of format {FORMAT}")
    allowed: dict[str, Sequence[object]] = {
        "rows_dtype": get_args(DtypeName),
        "base_dtype": get_args(DtypeName),
        "rows_kept_of_stock_model": range(1, 2**31),
        "first_row": (0, content["rows_kept_of_stock_model"]),
    }
    for name, kind in kinds.items():
        if type(content[name]) is not kind or content[name] not in allowed.get(name, [content[name]]):
            raise ModelError(f"{path} has {name} = {str(content[name])[:40]!r}; the pack is damaged, copy it again")
    for name in ("config", "lora"):
        if not isinstance(content[name], dict) and (name == "config" or content[name] is not None):
            raise ModelError(f"{path} has {name} = {str(content[name])[:40]!r}; the pack is damaged, copy it again")
    try:
        lora = LoraScaling.of(content["lora"]) if content["lora"] else None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return _Description(Binding(**{name: content[name] for name in kinds}), lora, content["config"])


def apply_pack(
    pack: str | Path, model: Checkpoint, dtype: torch.dtype | None = None
) -> tuple[Checkpoint, GLMTokenizer]:
    """Returns the model that a pack makes of a stock or extended model; its weights are computed when they are read.

    Args:
        pack: Folder of the pack.
        model: Weights of the model, under the names of the running model.
        dtype: Dtype of the result; the pack's if None.

    Returns:
        The weights under the names of the running model, and the tokenizer.

    Raises:
        ValueError: If the pack is damaged, or belongs to another model; gives both hashes.
        OSError: If a file does not exist.
    """
    pack = Path(pack)
    described = _read(pack)
    binding, tokenizer = described.binding, load_tokenizer(pack)
    if not (pack / WEIGHTS).is_file():
        raise FileNotFoundError(f"no {WEIGHTS} in {pack}")
    _check_hash(pack / WEIGHTS, sha256_of_file(pack / WEIGHTS), binding.weights_sha256)
    _check_hash(pack / "tokenizer.model", tokenizer.fingerprint, binding.tokenizer_sha256)
    num_kept, base_dtype = binding.rows_kept_of_stock_model, dtype_named(binding.base_dtype)
    found = shared_sha256(model, min(num_kept, model.tensors[model.architecture.embedding].shape[0]), base_dtype)
    if found != binding.shared_sha256:
        raise ModelError(
            f"{pack} belongs to a model with the hash {binding.shared_sha256[:16]}…, but {model.folder} has "
            f"{found[:16]}…; give the model that the run trained, or its stock model"
        )
    with safe_open(pack / WEIGHTS, "pt") as file:
        held: dict[str, TensorSource] = {name: MemoryTensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    stored, first = dtype_named(binding.rows_dtype), binding.first_row
    model = model.astype(base_dtype)
    extended: dict[str, TensorSource] = {}
    for name in model.architecture.both_embeddings:
        rows, old = held.pop(name), cast(model.tensors[name], stored)
        extended[name] = JoinedTensor([Part(old, 0, first), Part(rows, 0, rows.shape[0])])
    base = replace(model, config=described.config, tensors=model.tensors | extended).as_glm()
    return merge(base, held, described.lora, (), dtype or stored), tokenizer


def _check_hash(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ModelError(
            f"{path} is damaged: its hash is {found[:16]}…, but the pack was written with {expected[:16]}…; copy it "
            "again"
        )
