"""What a run has trained, put into the weights that it began with.

A low-rank adapter is a product that training never writes out: W' = W + s·BA, and under DoRA each row of that is scaled
to a learnt magnitude. Here it is written out in fp32, a block of rows at a time while a file is written, and rounded
once, to the dtype of the file. So a merge needs the memory of a block, not of a model.

Dimensions: O rows of a weight, I columns, R rank
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import ComputedTensor, JoinedTensor, Part, Source, all_finite, cast

# as peft names them
_ADAPTER = re.compile(r"(.+)\.lora_(A|B|magnitude_vector)\.default\.weight")
_ROWS = re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta\.default")


def merge(
    base: Checkpoint,
    trained: Mapping[str, Source],
    lora: Mapping[str, Any] | None,
    new_ids: Sequence[int],
    dtype: torch.dtype,
) -> Checkpoint:
    """The weights that a run ended with; computed when they are read.

    Args:
        base: What the run began with, as Glm.
        trained: What it trained, by peft's names without their prefix, as `glmja.runs.trained_state` gives them.
        lora: The settings of the adapters, as `glmja.modeling.adapters.Lora` names them; None if there are none.
        new_ids: The rows of the embeddings that trained by themselves, if they did; without gaps.
        dtype: Of the result.

    Raises:
        ValueError: If a trained tensor belongs to no tensor of the base, has another shape, or is a part of an adapter
            that is not whole; and, when it is read, if a weight is not finite in `dtype`.
    """
    merged: dict[str, Source] = {}
    adapters: dict[str, dict[str, Source]] = {}
    for name, source in trained.items():
        if adapter := _ADAPTER.fullmatch(name):
            adapters.setdefault(adapter[1], {})[adapter[2]] = source
        elif rows := _ROWS.fullmatch(name):
            whole = _of_base(base, f"{rows[1]}.weight", name)
            _check_shape(name, source, (len(new_ids), *whole.shape[1:]))
            merged[f"{rows[1]}.weight"] = with_rows(cast(whole, dtype), cast(source, dtype), new_ids[0])
        else:
            _check_shape(name, source, _of_base(base, name, name).shape)
            merged[name] = cast(source, dtype)
    for name, parts in adapters.items():
        merged[f"{name}.weight"] = cast(_adapted(base, name, parts, lora), dtype)
    finite = {name: _finite(name, source) for name, source in merged.items()}
    result = base.astype(dtype)
    return replace(result, tensors=result.tensors | finite)


def with_rows(whole: Source, rows: Source, first: int) -> Source:
    """A tensor of which the rows from `first` on are others."""
    after = first + rows.shape[0]
    parts = [Part(whole, 0, first), Part(rows, 0, rows.shape[0]), Part(whole, after, whole.shape[0])]
    return JoinedTensor(parts)


def scale_of(lora: Mapping[str, Any]) -> float:
    """What the product BA is multiplied by."""
    return float(lora["alpha"] / (math.sqrt(lora["rank"]) if lora["rslora"] else lora["rank"]))


def with_adapter(weight: Source, a: Source, b: Source, scale: float, magnitude: Source | None) -> Source:
    """A weight with its adapter written out, in fp32.

    Args:
        weight: (O, I).
        a: (R, I).
        b: (O, R).
        scale: Of the product.
        magnitude: The length of each row of the result, (O,), under DoRA.
    """

    def rows(start: int, stop: int) -> Tensor:
        a_RI, b_OR = a.read_all().float(), b.read(start, stop).float()
        sum_OI = torch.addmm(weight.read(start, stop).float(), b_OR, a_RI, alpha=scale)
        if magnitude is None:
            return sum_OI
        length_O = torch.linalg.vector_norm(sum_OI, dim=1)
        return sum_OI * (magnitude.read(start, stop).float() / length_O)[:, None]

    return ComputedTensor(torch.float32, weight.shape, rows)


def _adapted(base: Checkpoint, name: str, parts: Mapping[str, Source], lora: Mapping[str, Any] | None) -> Source:
    if lora is None:
        raise ModelError(f"{name} has an adapter, but the run had none by its own account")
    needed = {"A", "B", "magnitude_vector"} if lora["dora"] else {"A", "B"}
    if parts.keys() != needed:
        kind, wrong = (
            ("lacks", needed - parts.keys()) if needed - parts.keys() else ("has besides", parts.keys() - needed)
        )
        raise ModelError(f"the adapter of {name} {kind} lora_{min(wrong)}")
    weight = _of_base(base, f"{name}.weight", f"{name}.lora_A")
    _check_shape(f"{name}.lora_A", parts["A"], (lora["rank"], weight.shape[1]))
    _check_shape(f"{name}.lora_B", parts["B"], (weight.shape[0], lora["rank"]))
    magnitude = parts.get("magnitude_vector")
    if magnitude is not None:
        _check_shape(f"{name}.lora_magnitude_vector", magnitude, weight.shape[:1])
    return with_adapter(weight, parts["A"], parts["B"], scale_of(lora), magnitude)


def _of_base(base: Checkpoint, name: str, trained: str) -> Source:
    if name not in base.tensors:
        raise ModelError(f"the run trained {trained}, which belongs to no tensor of {base.folder}")
    return base.tensors[name]


def _check_shape(name: str, source: Source, shape: tuple[int, ...]) -> None:
    if tuple(source.shape) != tuple(shape):
        raise ModelError(
            f"the run trained {name} of the shape {tuple(source.shape)}; {tuple(shape)} would fit the base"
        )


def _finite(name: str, source: Source) -> Source:
    def rows(start: int, stop: int) -> Tensor:
        values = source.read(start, stop)
        if not all_finite(values):
            dtype = str(source.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} holds NaN or infinity in {dtype}, in rows {start} to {stop - 1}; if the run did not diverge, "
                "set `dtype` to bfloat16 or float32"
            )
        return values

    return ComputedTensor(source.dtype, source.shape, rows)
