"""Checks a finished Zero model, read back from its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from glmja.conversation.rendering import question_ids
from glmja.errors import ModelError
from glmja.modeling.model_folder import ModelFolder
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.options import Init

PROMPTS = ("你好", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_NEW_TOKENS = 16
_ROWS_PER_BLOCK = 64  # in float64, 2 MB each at width 4,096


@dataclass(frozen=True)
class ZeroChecks:
    """The checks that a Zero model passed.

    Attributes:
        old_rows_bit_equal: Whether the rows of old tokens are those of the base, bit for bit.
        largest_distance_from_convexity_in_ulp: Largest distance of a new head row from the mean of old rows, in units
            in the last place of the stored dtype; None for other initializations.
        greedy_prompts: Number of prompts with equal greedy replies; None if they were not compared.
        greedy_equal: Whether the greedy replies are equal; None if they were not compared.
    """

    old_rows_bit_equal: bool
    largest_distance_from_convexity_in_ulp: float | None = None
    greedy_prompts: int | None = None
    greedy_equal: bool | None = None

    def as_json(self) -> dict[str, object]:
        """Returns the checks that were made."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def verify_zero(
    base: ModelFolder, source: Checkpoint, folder: Path, spelled: list[list[int]], init: Init, check_greedy: bool
) -> ZeroChecks:
    """Re-opens a Zero model and compares it with its base.

    Args:
        base: The base model.
        source: The base's weights under Glm's names, in the dtype of the Zero model.
        folder: The folder of the Zero model.
        spelled: For each new piece, the ids of the old pieces that spell it.
        init: How new rows were initialized.
        check_greedy: Whether to load both models and compare their greedy replies.

    Raises:
        ModelError: If a check fails.
    """
    opened = ModelFolder.open(folder)
    zero, num_old = opened.checkpoint, len(base.tokenizer)
    for name in (EMBEDDING, HEAD):
        blocks = zip(zero.tensors[name].blocks(0, num_old), source.tensors[name].blocks(0, num_old), strict=True)
        for number, (written, expected) in enumerate(blocks):
            if not torch.equal(written.view(torch.uint8), expected.view(torch.uint8)):
                raise ModelError(f"{name}: old rows differ from the base's in block {number}")
    return ZeroChecks(
        old_rows_bit_equal=True,
        largest_distance_from_convexity_in_ulp=(
            _distance_from_convexity(source, zero, num_old, spelled) if init == "subtoken_mean" else None
        ),
        greedy_prompts=_check_greedy(base, opened, source.dtype) if check_greedy else None,
        greedy_equal=True if check_greedy else None,
    )


def _distance_from_convexity(base: Checkpoint, zero: Checkpoint, num_old: int, spelled: list[list[int]]) -> float:
    """Returns the largest distance of a new head row from the mean of old rows, in ulp of the stored dtype."""
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
    """Returns the distance between neighboring numbers of the dtype at each value; constant for subnormal numbers."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)


def _check_greedy(base: ModelFolder, zero: ModelFolder, dtype: torch.dtype) -> int:
    """Compares greedy replies, and returns the number of prompts.

    The base chooses among the ids of its tokenizer only: further rows are padding that was never trained.
    """
    # takes seconds and 0.1 GB, and the other checks do not need it
    from glmja.modeling.generation import generate_ids  # noqa: PLC0415
    from glmja.modeling.loading import load_model  # noqa: PLC0415
    from glmja.modeling.sampling import Sampling  # noqa: PLC0415

    prompts = [question_ids(prompt, base.tokenizer) for prompt in PROMPTS]
    expected, found = (
        generate_ids(load_model(model, dtype), model.tokenizer, prompts, Sampling(_NEW_TOKENS), batch_size=1)
        for model in (base, zero)
    )
    for prompt, old, new in zip(PROMPTS, expected, found, strict=True):
        if new != old:
            raise ModelError(f"greedy replies to {prompt!r} differ: {old[0]} became {new[0]}")
    return len(prompts)
