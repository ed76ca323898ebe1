"""What trained, read out of a checkpoint without running code.

A checkpoint of one device holds it as tensors. One of ZeRO holds it as each process's part of a flat fp32 vector for
each group of the optimizer, beside objects of DeepSpeed's; these are replaced by empty ones, so that neither their code
nor DeepSpeed is needed. All files are memory-mapped: what is not read costs no memory.
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
from glmja.runs import manifest
from glmja.runs.manifest import Manifest
from glmja.weights.tensors import ComputedTensor, JoinedTensor, MemoryTensor, Part, Source

_PLAIN = "state.ckpt"
_ZERO = "checkpoint"
_FACTS = ("base", "tokenizer", "tuning", "embeddings", "lora", "trainable")


@dataclass(frozen=True)
class TrainedState:
    """The part of a model that a run trained.

    Attributes:
        folder: The checkpoint.
        manifest: What it says of itself.
        tensors: By peft's names, without the prefixes of peft and of the module that trained.
    """

    folder: Path
    manifest: Manifest
    tensors: dict[str, Source]

    @property
    def run_dir(self) -> Path:
        """The folder of the run that saved it."""
        return self.folder.resolve().parents[1]

    @classmethod
    def open(cls, path: str | Path) -> TrainedState:
        """Verifies a checkpoint and opens it.

        Args:
            path: A checkpoint, or the folder of a run, whose newest whole checkpoint is taken.

        Raises:
            FileNotFoundError: If there is nothing of that name, or no whole checkpoint in the run.
            ValueError: If the checkpoint is incomplete, damaged, holds code, or is not of a GLM.
        """
        path = Path(path)
        is_run = (path / "checkpoints").is_dir()
        folder = manifest.newest(path / "checkpoints") if is_run else path
        saved = manifest.read(folder, verify=not is_run)
        missing = [name for name in _FACTS if name not in saved.facts]
        if missing:
            raise ModelError(f"{folder} is of no training that glmja can export: it does not tell {', '.join(missing)}")
        found = read_tensors(folder, saved)
        return cls(folder, saved, {_bare(name): source for name, source in found.items()})


def read_tensors(folder: Path, saved: Manifest) -> dict[str, Source]:
    """What trained, by the names of the module that trained it.

    Args:
        folder: A checkpoint that was verified.
        saved: Its manifest.

    Raises:
        ValueError: If the checkpoint holds code, or not what its manifest tells of.
    """
    tensors = _read_plain(folder) if _PLAIN in saved.files else _read_zero(folder, saved)
    _check_complete(folder, {name: list(source.shape) for name, source in tensors.items()}, saved.facts["trainable"])
    return tensors


def _bare(name: str) -> str:
    return name.removeprefix("model.").removeprefix("base_model.model.")


def _check_complete(folder: Path, found: dict[str, list[int]], trainable: Sequence[Sequence[Any]]) -> None:
    expected = {name: list(shape) for name, shape in trainable}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        has, told = found.get(wrong[0], "none"), expected.get(wrong[0], "none")
        raise ModelError(f"{folder}: its manifest tells of {wrong[0]} {told}, but it holds {has} ({len(wrong)} differ)")


def _read_plain(folder: Path) -> dict[str, Source]:
    return {name: MemoryTensor(tensor) for name, tensor in _load(folder / _PLAIN)["state_dict"].items()}


def _read_zero(folder: Path, saved: Manifest) -> dict[str, Source]:
    """The fp32 weights that the optimizer holds; the model's own are rounded in half precision."""
    states = sorted(name for name in saved.files if name.startswith(f"{_ZERO}/") and name.endswith("_optim_states.pt"))
    models = [name for name in saved.files if name.startswith(f"{_ZERO}/") and name.endswith("_model_states.pt")]
    if not states or len(models) != 1:
        raise ModelError(f"{folder} holds neither {_PLAIN} nor the files of ZeRO stage 2; nothing else can be exported")
    groups = _load(folder / models[0])["param_shapes"]
    ranks = [_load(path)["optimizer_state_dict"] for path in _by_rank(folder, states)]
    counts = ranks[0]["partition_count"]
    if any(count != len(ranks) for count in (counts if isinstance(counts, list) else [counts])):
        raise ModelError(f"{folder} holds the partitions of {len(ranks)} processes, but {counts} saved")
    tensors: dict[str, Source] = {}
    for number, shapes in enumerate(groups):
        parts = [rank["single_partition_of_fp32_groups"][number].detach() for rank in ranks]
        tensors |= _divide(_flat(parts), shapes, folder)
    return tensors


def _by_rank(folder: Path, names: Sequence[str]) -> list[Path]:
    """By the number in `zero_pp_rank_10_mp_rank_00_optim_states.pt`, which is not the order of the names."""
    return [folder / name for name in sorted(names, key=lambda name: int(name.split("pp_rank_")[1].split("_")[0]))]


def _flat(parts: Sequence[Tensor]) -> Source:
    return JoinedTensor([Part(MemoryTensor(part), 0, part.numel()) for part in parts])


def _divide(flat: Source, shapes: dict[str, torch.Size], folder: Path) -> dict[str, Source]:
    """The tensors of a group, one after the other; padding follows."""
    tensors: dict[str, Source] = {}
    offset = 0
    for name, shape in shapes.items():
        tensors[name] = _slice(flat, offset, tuple(shape))
        offset += math.prod(shape)
    if offset > flat.shape[0]:
        raise ModelError(f"{folder}: the partitions hold {flat.shape[0]} numbers, {offset} are needed")
    return tensors


def _slice(flat: Source, offset: int, shape: tuple[int, ...]) -> Source:
    width = math.prod(shape[1:])

    def rows(start: int, stop: int) -> Tensor:
        return flat.read(offset + start * width, offset + stop * width).reshape(stop - start, *shape[1:])

    return ComputedTensor(flat.dtype, shape, rows)


class _Absent:
    """Stands for an object that nothing here asks for."""

    def __init__(self, *args: Any) -> None:
        """Keeps nothing."""


_OF_DEEPSPEED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([(_Absent, name) for name in _OF_DEEPSPEED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ModelError(f"{path} holds code or is damaged; it was not loaded") from error
