"""Merges trained adapters and embedding rows into the weights that a run started from.

The update of a low-rank adapter is a product that training never materializes: W' = W + s·BA (Hu et al. 2021,
https://arxiv.org/abs/2106.09685); under DoRA each row of the sum is scaled to a trained magnitude (Liu et al. 2024,
https://arxiv.org/abs/2402.09353). Here it is computed in fp32, a block of rows at a time while a file is written, and
rounded once, to the dtype of the file. A merge therefore needs the memory of a block, not of a model.

Dimensions: O rows of a weight, I columns, R rank
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import dtype_name
from glmja.weights.peft_names import lora_part, token_rows
from glmja.weights.tensors import ComputedTensor, JoinedTensor, Part, TensorSource, all_finite, cast


@dataclass(frozen=True)
class LoraScaling:
    """The settings of low-rank adapters that their merge depends on; see `glmja.modeling.adapters.Lora`."""

    rank: int
    alpha: int
    rslora: bool
    dora: bool

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> LoraScaling:
        """Reads the settings from those that a run saved.

        Raises:
            ModelError: If one is missing, of another type, or not positive.
        """
        values = {name: settings.get(name) for name in ("rank", "alpha", "rslora", "dora")}
        for name, value in values.items():
            kind = int if name in ("rank", "alpha") else bool
            if type(value) is not kind or (kind is int and not 0 < value < 2**31):
                raise ModelError(f"the run saved lora settings with {name} = {str(value)[:40]!r}")
        return cls(**values)  # type: ignore[arg-type]

    @property
    def scale(self) -> float:
        """The factor of the product BA."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def merge(
    base: Checkpoint,
    trained: Mapping[str, TensorSource],
    lora: LoraScaling | None,
    new_ids: Sequence[int],
    dtype: torch.dtype,
) -> Checkpoint:
    """Returns the weights at the end of a run; they are computed when they are read.

    Args:
        base: The weights that the run started from, under the names of the running model.
        trained: The trained tensors, by peft's names without their prefix, as `glmja.runs.trained_state` returns them.
        lora: Settings of the adapters; None if there are none.
        new_ids: Ids of the embedding rows that trained alone, if any; without gaps.
        dtype: Dtype of the result.

    Raises:
        ValueError: If a trained tensor belongs to no tensor of the base or has another shape, or an adapter is
            incomplete; and, when it is read, if a weight is not finite in `dtype`.
    """

    def target(name: str) -> torch.dtype:
        return base.tensors[name].dtype if base.architecture.stays_fp32(name) else dtype

    merged: dict[str, TensorSource] = {}
    adapters: dict[str, dict[str, TensorSource]] = {}
    for name, source in trained.items():
        if part := lora_part(name):
            adapters.setdefault(part[0], {})[part[1]] = source
        elif embedding := token_rows(name):
            whole = _of_base(base, f"{embedding}.weight", name)
            _check_shape(name, source, (len(new_ids), *whole.shape[1:]))
            merged[f"{embedding}.weight"] = with_rows(cast(whole, dtype), cast(source, dtype), new_ids[0])
        else:
            _check_shape(name, source, _of_base(base, name, name).shape)
            merged[name] = cast(source, target(name))
    for name, parts in adapters.items():
        merged[f"{name}.weight"] = cast(_adapted(base, name, parts, lora), dtype)
    finite = {name: _finite(name, source) for name, source in merged.items()}
    result = base.astype(dtype)
    return replace(result, tensors=result.tensors | finite)


def with_rows(whole: TensorSource, rows: TensorSource, first: int) -> TensorSource:
    """Returns a tensor in which `rows` replace the rows from `first` on."""
    after = first + rows.shape[0]
    parts = [Part(whole, 0, first), Part(rows, 0, rows.shape[0]), Part(whole, after, whole.shape[0])]
    return JoinedTensor(parts)


def with_adapter(
    weight: TensorSource, a: TensorSource, b: TensorSource, scale: float, magnitude: TensorSource | None
) -> TensorSource:
    """Returns a weight with its adapter merged, in fp32.

    Args:
        weight: The weight, (O, I).
        a: Matrix A of the adapter, (R, I).
        b: Matrix B of the adapter, (O, R).
        scale: Factor of the product BA.
        magnitude: Under DoRA, the length of each row of the result, (O,).
    """

    def rows(start: int, stop: int) -> Tensor:
        a_RI, b_OR = a.read_all().float(), b.read(start, stop).float()
        sum_OI = torch.addmm(weight.read(start, stop).float(), b_OR, a_RI, alpha=scale)
        if magnitude is None:
            return sum_OI
        length_O = torch.linalg.vector_norm(sum_OI, dim=1)
        return sum_OI * (magnitude.read(start, stop).float() / length_O)[:, None]

    return ComputedTensor(torch.float32, weight.shape, rows)


def _adapted(base: Checkpoint, name: str, parts: Mapping[str, TensorSource], lora: LoraScaling | None) -> TensorSource:
    if lora is None:
        raise ModelError(f"{name} has an adapter, but the run saved no lora settings")
    needed = {"A", "B", "magnitude_vector"} if lora.dora else {"A", "B"}
    if parts.keys() != needed:
        missing, unexpected = needed - parts.keys(), parts.keys() - needed
        kind, wrong = ("lacks", missing) if missing else ("has an unexpected", unexpected)
        raise ModelError(f"the adapter of {name} {kind} lora_{min(wrong)}")
    weight = _of_base(base, f"{name}.weight", f"{name}.lora_A")
    _check_shape(f"{name}.lora_A", parts["A"], (lora.rank, weight.shape[1]))
    _check_shape(f"{name}.lora_B", parts["B"], (weight.shape[0], lora.rank))
    magnitude = parts.get("magnitude_vector")
    if magnitude is not None:
        _check_shape(f"{name}.lora_magnitude_vector", magnitude, weight.shape[:1])
    return with_adapter(weight, parts["A"], parts["B"], lora.scale, magnitude)


def _of_base(base: Checkpoint, name: str, trained: str) -> TensorSource:
    if name not in base.tensors:
        raise ModelError(f"the run trained {trained}, which belongs to no tensor of {base.folder}")
    return base.tensors[name]


def _check_shape(name: str, source: TensorSource, shape: tuple[int, ...]) -> None:
    if tuple(source.shape) != tuple(shape):
        raise ModelError(f"the run trained {name} with the shape {tuple(source.shape)}; the base needs {tuple(shape)}")


def _finite(name: str, source: TensorSource) -> TensorSource:
    """Returns the tensor, checked for NaN and infinity as it is read."""

    def rows(start: int, stop: int) -> Tensor:
        values = source.read(start, stop)
        if not all_finite(values):
            raise ModelError(
                f"{name} holds NaN or infinity in {dtype_name(source.dtype)}, in rows {start} to {stop - 1}; if the "
                "run did not diverge, set `dtype` to bfloat16 or float32"
            )
        return values

    return ComputedTensor(source.dtype, source.shape, rows)
