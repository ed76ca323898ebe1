"""Trained tensors of a checkpoint, read without running code.

A checkpoint of one device or of DDP stores them as tensors. A checkpoint of ZeRO stores, for each process, its
partition of a flat fp32 vector per optimizer group, next to objects of DeepSpeed; these are replaced by empty objects,
so that neither their code nor DeepSpeed is needed. All files are memory-mapped: what is not read takes no memory.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.files.folder_kinds import check_run_folder
from glmja.runs import manifest
from glmja.runs.manifest import Manifest
from glmja.runs.run_folder import RunFolder
from glmja.weights import peft_names
from glmja.weights.tensors import ComputedTensor, JoinedTensor, MemoryTensor, Part, TensorSource

_REQUIRED = ("base", "tokenizer", "tuning", "embeddings", "trainable")


@dataclass(frozen=True)
class TrainedState:
    """The tensors that a run has trained.

    Attributes:
        folder: The checkpoint.
        manifest: Its metadata.
        tensors: Trained tensors under peft's names, without the prefixes of peft and of the training module.
    """

    folder: Path
    manifest: Manifest
    tensors: dict[str, TensorSource]

    @property
    def run(self) -> RunFolder:
        """The folder of the run that saved the checkpoint."""
        return RunFolder.of_checkpoint(self.folder)

    @classmethod
    def open(cls, path: str | Path) -> TrainedState:
        """Verifies a checkpoint and opens it.

        Args:
            path: A checkpoint, or the folder of a run, of which the newest complete checkpoint is opened.

        Raises:
            FileNotFoundError: If the path does not exist, or the run has no complete checkpoint.
            ModelError: If the checkpoint is incomplete, damaged, holds code, or is not one of a GLM.
        """
        check_run_folder(path)
        folder, saved = manifest.find(path)
        known = saved.identity.as_json()
        missing = [name for name in _REQUIRED if name not in known]
        if missing:
            raise ModelError(f"{folder} does not come from a GLM training: its manifest lacks {', '.join(missing)}")
        found = read_tensors(folder, saved)
        return cls(folder, saved, {_without_prefixes(name): source for name, source in found.items()})


def read_tensors(folder: Path, saved: Manifest) -> dict[str, TensorSource]:
    """Returns the trained tensors under the names of the training module.

    Args:
        folder: A verified checkpoint.
        saved: Its manifest.

    Raises:
        ModelError: If the checkpoint holds code, or other tensors than its manifest lists.
    """
    tensors = _read_plain(folder) if RunFolder.STATE in saved.files else _read_zero(folder, saved)
    _check_complete(folder, {name: tuple(source.shape) for name, source in tensors.items()}, saved)
    return tensors


def _without_prefixes(name: str) -> str:
    return peft_names.without_prefix(name.removeprefix("model."))


def _check_complete(folder: Path, found: dict[str, tuple[int, ...]], saved: Manifest) -> None:
    expected = dict(saved.identity.trainable or ())
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        has, listed = (list(shapes[wrong[0]]) if wrong[0] in shapes else "none" for shapes in (found, expected))
        raise ModelError(
            f"{folder}: the manifest lists {wrong[0]} {listed}, but the files hold {has} ({len(wrong)} differ)"
        )


def _read_plain(folder: Path) -> dict[str, TensorSource]:
    return {name: MemoryTensor(tensor) for name, tensor in _load(folder / RunFolder.STATE)["state_dict"].items()}


def _read_zero(folder: Path, saved: Manifest) -> dict[str, TensorSource]:
    """Returns the fp32 weights of the optimizer; those of the model are rounded in half precision."""
    files = sorted(name for name in saved.files if name.startswith(f"{RunFolder.ZERO_STATES}/"))
    states = [name for name in files if name.endswith("_optim_states.pt")]
    models = [name for name in files if name.endswith("_model_states.pt")]
    if not states or len(models) != 1:
        raise ModelError(
            f"{folder} holds neither {RunFolder.STATE} nor the files of ZeRO stage 2; other checkpoints cannot be read"
        )
    groups = _load(folder / models[0])["param_shapes"]
    ranks = [_load(path)["optimizer_state_dict"] for path in _by_rank(folder, states)]
    counts = ranks[0]["partition_count"]
    if any(count != len(ranks) for count in (counts if isinstance(counts, list) else [counts])):
        raise ModelError(f"{folder} holds the partitions of {len(ranks)} processes, but {counts} saved")
    tensors: dict[str, TensorSource] = {}
    for number, shapes in enumerate(groups):
        parts = [rank["single_partition_of_fp32_groups"][number].detach() for rank in ranks]
        tensors |= _split(_flat(parts), shapes, folder)
    return tensors


def _by_rank(folder: Path, names: Sequence[str]) -> list[Path]:
    """Sorts by the number in `zero_pp_rank_10_mp_rank_00_optim_states.pt`, which is not the order of the names."""
    return [folder / name for name in sorted(names, key=lambda name: int(name.split("pp_rank_")[1].split("_")[0]))]


def _flat(parts: Sequence[Tensor]) -> TensorSource:
    return JoinedTensor([Part(MemoryTensor(part), 0, part.numel()) for part in parts])


def _split(flat: TensorSource, shapes: dict[str, torch.Size], folder: Path) -> dict[str, TensorSource]:
    """Returns the tensors of a group, which lie one after the other, with padding at the end."""
    tensors: dict[str, TensorSource] = {}
    offset = 0
    for name, shape in shapes.items():
        tensors[name] = _slice(flat, offset, tuple(shape))
        offset += math.prod(shape)
    if offset > flat.shape[0]:
        raise ModelError(f"{folder}: the partitions hold {flat.shape[0]} numbers, but {offset} are needed")
    return tensors


def _slice(flat: TensorSource, offset: int, shape: tuple[int, ...]) -> TensorSource:
    width = math.prod(shape[1:])

    def rows(start: int, stop: int) -> Tensor:
        return flat.read(offset + start * width, offset + stop * width).reshape(stop - start, *shape[1:])

    return ComputedTensor(flat.dtype, shape, rows)


class _Placeholder:
    """Replaces an object of DeepSpeed that is not needed."""

    def __init__(self, *args: Any) -> None:
        """Ignores the arguments."""


_DEEPSPEED_CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([(_Placeholder, name) for name in _DEEPSPEED_CLASSES]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ModelError(f"{path} holds code or is damaged; it was not loaded") from error
