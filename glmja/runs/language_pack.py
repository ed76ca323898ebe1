"""Language packs: what training added to a model, without the model.

A model that grew by `resize_embeddings` and was trained by adapters shares nearly everything with the one that it grew
from: the transformer, and the rows of the old pieces if these did not train. A pack holds the rest: the adapters, the
rows of both embeddings that the stock model lacks or that trained, and the tokenizer. It is bound to what the two have
in common by a hash of that alone, so it can be put on the stock model as well as on the grown one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from glmja.errors import ModelError
from glmja.families.recognition import load_tokenizer
from glmja.files.checksums import sha256_of_file
from glmja.files.json_files import read_json, write_json
from glmja.tokenization import huggingface as fast_tokenizer
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.merging import merge
from glmja.weights.tensors import JoinedTensor, MemoryTensor, Part, Source, cast
from glmja.weights.weight_files import write_safetensors

FORMAT = 1
DESCRIPTION = "pack.json"
WEIGHTS = "pack.safetensors"

_KEYS = {
    "shared_sha256", "rows_kept_of_stock_model", "first_row", "rows_dtype", "base_dtype", "weights_sha256",
    "tokenizer_sha256", "lora", "config",
}  # fmt: skip


def shared_sha256(model: Checkpoint, num_kept: int, dtype: torch.dtype) -> str:
    """A hash of what a model shares with those that grow from it: all but the embeddings' rows from `num_kept` on.

    Args:
        model: As Glm.
        num_kept: Rows that belong to the pieces and control tokens of the stock model.
        dtype: Of the grown model, in which both are compared.
    """
    kept: dict[str, Source] = {
        name: JoinedTensor([Part(model.tensors[name], 0, num_kept)]) for name in (EMBEDDING, HEAD)
    }
    shared = {name: cast(source, dtype) for name, source in (model.tensors | kept).items()}
    return Checkpoint(model.folder, {}, shared).fingerprint()


def write(
    folder: Path,
    base: Checkpoint,
    trained: Mapping[str, Source],
    facts: Mapping[str, Any],
    tokenizer: GLMTokenizer,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Writes a pack into an existing folder.

    Args:
        folder: Where to write.
        base: What the run began with, as Glm.
        trained: What it trained, as `glmja.runs.trained_state` gives it.
        facts: Those of the checkpoint.
        tokenizer: The run's.
        dtype: Of the written rows, and of the model that is made from the pack; adapters are stored as they trained.

    Returns:
        What binds the pack to its base, for the report.

    Raises:
        ValueError: If the run trained the transformer itself.
    """
    if facts["tuning"] == "full":
        raise ModelError("the run trained the transformer in full, so a pack would be the model; set `format` to glm")
    num_kept, base_dtype = tokenizer.new_ids.start, base.tensors[EMBEDDING].dtype
    first = 0 if facts["embeddings"] == "full" else num_kept
    weights = merge(base, trained, facts["lora"], tokenizer.new_ids, dtype).tensors
    rows = {name: JoinedTensor([Part(weights[name], first, weights[name].shape[0])]) for name in (EMBEDDING, HEAD)}
    adapters = {name: source for name, source in trained.items() if ".lora_" in name}
    write_safetensors(folder / WEIGHTS, rows | adapters, lambda _: None)
    left_out = fast_tokenizer.save(tokenizer, folder, base.config["max_position_embeddings"])
    binding = {
        "pack_format": FORMAT,
        "shared_sha256": shared_sha256(base, num_kept, base_dtype),
        "rows_kept_of_stock_model": num_kept,
        "first_row": first,
        "rows_dtype": _name(dtype),
        "base_dtype": _name(base_dtype),
        "weights_sha256": sha256_of_file(folder / WEIGHTS),
        "tokenizer_sha256": tokenizer.fingerprint,
        "hugging_face_tokenizer": fast_tokenizer.describe_saved(left_out),
    }
    write_json(folder / DESCRIPTION, {**binding, "lora": facts["lora"], "config": base.config})
    return binding


def read(pack: str | Path) -> dict[str, Any]:
    """What a pack says of itself.

    Raises:
        FileNotFoundError: If there is no pack.
        ValueError: If it is not of this format.
    """
    binding = read_json(Path(pack) / DESCRIPTION)
    if binding.get("pack_format") != FORMAT or not binding.keys() >= _KEYS:
        raise ModelError(f"{Path(pack) / DESCRIPTION} is no description of a language pack of format {FORMAT}")
    return binding


def apply_pack(
    pack: str | Path, model_dir: str | Path, dtype: torch.dtype | None = None
) -> tuple[Checkpoint, GLMTokenizer]:
    """The model that a pack makes of a stock or grown model; its weights are computed when they are read.

    Args:
        pack: Folder of the pack.
        model_dir: Folder of the model.
        dtype: Of the result; the pack's by default.

    Returns:
        The weights as Glm, and the tokenizer.

    Raises:
        ValueError: If the pack is damaged, or belongs to another model; gives both hashes.
        OSError: If a file does not exist.
    """
    pack, model_dir = Path(pack), Path(model_dir)
    binding = read(pack)
    tokenizer = load_tokenizer(pack)
    if not (pack / WEIGHTS).is_file():
        raise FileNotFoundError(f"no {WEIGHTS} in {pack}")
    _check_hash(pack / WEIGHTS, sha256_of_file(pack / WEIGHTS), binding["weights_sha256"])
    _check_hash(pack / "tokenizer.model", tokenizer.fingerprint, binding["tokenizer_sha256"])
    model = Checkpoint.open(model_dir).as_glm()
    num_kept, base_dtype = binding["rows_kept_of_stock_model"], getattr(torch, binding["base_dtype"])
    found = shared_sha256(model, min(num_kept, model.tensors[EMBEDDING].shape[0]), base_dtype)
    if found != binding["shared_sha256"]:
        raise ModelError(
            f"{pack} belongs to a model with the hash {binding['shared_sha256'][:16]}…, but {model_dir} has "
            f"{found[:16]}…; give the model that the run began with, or the one that it grew from"
        )
    with safe_open(pack / WEIGHTS, "pt") as file:
        held: dict[str, Source] = {name: MemoryTensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    stored, first = getattr(torch, binding["rows_dtype"]), binding["first_row"]
    model = model.astype(base_dtype)
    grown: dict[str, Source] = {}
    for name in (EMBEDDING, HEAD):
        rows, old = held.pop(name), cast(model.tensors[name], stored)
        grown[name] = JoinedTensor([Part(old, 0, first), Part(rows, 0, rows.shape[0])])
    base = replace(model, config=binding["config"], tensors=model.tensors | grown).as_glm()
    return merge(base, held, binding["lora"], (), dtype or stored), tokenizer


def _check_hash(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ModelError(
            f"{path} is damaged: its hash is {found[:16]}…, but {expected[:16]}… was written; copy it anew"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
