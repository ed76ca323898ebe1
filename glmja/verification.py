"""What is checked on a finished Zero model, read back from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmja.checkpoint import Checkpoint
from glmja.conversation import render_prompt
from glmja.layout import EMBEDDING, HEAD
from glmja.tokenizer import GLMTokenizer

PROMPTS = ("你好", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_NEW_TOKENS = 16
_ROWS_PER_BLOCK = 64  # in float64, 2 MB each at width 4,096


def verify_zero(
    base: Checkpoint, folder: Path, old: GLMTokenizer, spelled: list[list[int]], init: str, check_greedy: bool
) -> dict[str, Any]:
    """Re-opens a Zero model and compares it with its base.

    Args:
        base: The base, as Glm, in the dtype of the Zero model.
        folder: Of the Zero model.
        old: The base's tokenizer.
        spelled: For each new piece, the old ids that spelled it.
        init: How new rows were made.
        check_greedy: Whether to run both models.

    Returns:
        What was found, for the report.

    Raises:
        ValueError: If a check fails.
    """
    zero = Checkpoint.open(folder).as_glm()
    num_old = len(old)
    found: dict[str, Any] = {}
    for name in (EMBEDDING, HEAD):
        source, kept = base.tensors[name], zero.tensors[name]
        for block, (ours, theirs) in enumerate(zip(kept.blocks(0, num_old), source.blocks(0, num_old), strict=True)):
            if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
                raise ValueError(f"{name}: old rows differ from the base's in block {block}")
    found["old_rows_bit_equal"] = True
    if init == "subtoken_mean":
        found["largest_distance_from_convexity_in_ulp"] = _distance_from_convexity(base, zero, num_old, spelled)
    if check_greedy:
        found["greedy_prompts"] = _check_greedy(base, folder, old)
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
        raise ValueError(f"new head rows are up to {worst:.2f} ulp away from a convex combination of old rows")
    return round(worst, 3)


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring numbers of the dtype around each value; constant among subnormal numbers."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)


def _check_greedy(base: Checkpoint, folder: Path, old: GLMTokenizer) -> int:
    """Compares greedy replies; returns the number of prompts.

    The base may choose among the ids of its tokenizer only: rows beyond them are padding that was never trained.
    """
    # transformers takes seconds and 0.1 GB, and the other checks do without
    from glmja.model import load_model  # noqa: PLC0415

    prompts = [render_prompt([{"role": "user", "content": p}], old) for p in PROMPTS if _has_roles(old)]
    prompts = prompts or [[*old.prefix_ids, *old.encode(p)] for p in PROMPTS]
    padding = list(range(len(old), base.config["vocab_size"]))
    dtype = base.tensors[HEAD].dtype
    theirs = _greedy(load_model(base.folder, dtype), prompts, padding, old.stop_ids)
    ours = _greedy(load_model(folder, dtype), prompts, [], old.stop_ids)
    for prompt, our, their in zip(PROMPTS, ours, theirs, strict=True):
        if our != their:
            raise ValueError(f"greedy replies to {prompt!r} differ: {their} became {our}")
    return len(prompts)


def _greedy(model: Any, prompts: list[list[int]], suppressed: list[int], stop_ids: list[int]) -> list[list[int]]:
    replies = []
    for prompt in prompts:
        ids = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=_NEW_TOKENS,
            suppress_tokens=suppressed or None,
            eos_token_id=stop_ids,
        )
        replies.append(ids[0, len(prompt) :].tolist())
    return replies


def _has_roles(tokenizer: GLMTokenizer) -> bool:
    return "<|user|>" in tokenizer.control_tokens
