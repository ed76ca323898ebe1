"""What is checked on a finished Zero model, read back from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmja.conversation.rendering import question_ids
from glmja.errors import ModelError
from glmja.modeling.model_folder import ModelFolder
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint

PROMPTS = ("你好", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_NEW_TOKENS = 16
_ROWS_PER_BLOCK = 64  # in float64, 2 MB each at width 4,096


def verify_zero(
    base: ModelFolder, source: Checkpoint, folder: Path, spelled: list[list[int]], init: str, check_greedy: bool
) -> dict[str, Any]:
    """Re-opens a Zero model and compares it with its base.

    Args:
        base: The base model.
        source: The base's weights under Glm's names, in the dtype of the Zero model.
        folder: The folder of the Zero model.
        spelled: For each new piece, the ids of the old pieces that spell it.
        init: How new rows were initialized.
        check_greedy: Whether to load both models and compare their greedy replies.

    Returns:
        What was found, for the report.

    Raises:
        ValueError: If a check fails.
    """
    opened = ModelFolder.open(folder)
    zero, num_old = opened.checkpoint, len(base.tokenizer)
    found: dict[str, Any] = {}
    for name in (EMBEDDING, HEAD):
        old, kept = source.tensors[name], zero.tensors[name]
        for block, (ours, theirs) in enumerate(zip(kept.blocks(0, num_old), old.blocks(0, num_old), strict=True)):
            if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
                raise ModelError(f"{name}: old rows differ from the base's in block {block}")
    found["old_rows_bit_equal"] = True
    if init == "subtoken_mean":
        found["largest_distance_from_convexity_in_ulp"] = _distance_from_convexity(source, zero, num_old, spelled)
    if check_greedy:
        found["greedy_prompts"] = _check_greedy(base, opened, source.tensors[HEAD].dtype)
        found["greedy_equal"] = True
    return found


def _distance_from_convexity(base: Checkpoint, zero: Checkpoint, num_old: int, spelled: list[list[int]]) -> float:
    """How far new head rows are from the mean of old rows, in units in the last place of the stored dtype."""
    worst, num_new = 0.0, len(spelled)
    for start in range(0, num_new, _ROWS_PER_BLOCK):
        groups = spelled[start : start + _ROWS_PER_BLOCK]
        exact_ND = base.tensors[HEAD].mean_of(groups)
        stored_ND = zero.tensors[HEAD].read(num_old + start, num_old + start + len(groups))
        worst = max(worst, float(((stored_ND.double() - exact_ND).abs() / _ulp(exact_ND, stored_ND.dtype)).max()))
    if worst > 1:
        raise ModelError(f"new head rows are up to {worst:.2f} ulp away from a convex combination of old rows")
    return round(worst, 3)


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring numbers of the dtype around each value; constant among subnormal numbers."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)


def _check_greedy(base: ModelFolder, zero: ModelFolder, dtype: torch.dtype) -> int:
    """Compares greedy replies; returns the number of prompts.

    The base may choose among the ids of its tokenizer only: rows beyond them are padding that was never trained.
    """
    # transformers takes seconds and 0.1 GB, and the other checks do without
    from glmja.modeling.generation import generate_ids  # noqa: PLC0415
    from glmja.modeling.loading import load_model  # noqa: PLC0415
    from glmja.modeling.sampling import Sampling  # noqa: PLC0415

    prompts = [question_ids(prompt, base.tokenizer) for prompt in PROMPTS]
    theirs, ours = (
        generate_ids(load_model(model, dtype), model.tokenizer, prompts, Sampling(_NEW_TOKENS), batch_size=1)
        for model in (base, zero)
    )
    for prompt, our, their in zip(PROMPTS, ours, theirs, strict=True):
        if our != their:
            raise ModelError(f"greedy replies to {prompt!r} differ: {their[0]} became {our[0]}")
    return len(prompts)
