"""Checks a finished Zero model, read back from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.modeling.model_folder import ModelFolder
from glmja.verification.row_copies import RowCopies, count_copies
from glmja.verification.zero_outputs import PROMPTS, Probe, TextCheck, compare_outputs
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.row_mixtures import ROWS_PER_BLOCK, RowMixtures


@dataclass(frozen=True)
class ZeroChecks:
    """The checks that a Zero model passed.

    Attributes:
        old_rows_bit_equal: Whether the rows of old tokens are those of the base, bit for bit.
        largest_distance_from_convexity_in_ulp: Largest distance of a new row from the convex combination of old rows
            that it was computed as, in units in the last place of the stored dtype; None for random rows.
        row_copies: New rows that equal another row, in the `input` embedding, the `head`, and `both`.
        greedy_prompts: Number of prompts with equal greedy replies; None if they were not compared.
        greedy_equal: Whether the greedy replies are equal; None if they were not compared.
        texts: Likelihoods under base and Zero, and how often a new piece is on top, by language.
    """

    old_rows_bit_equal: bool
    largest_distance_from_convexity_in_ulp: float | None = None
    row_copies: dict[str, RowCopies] = field(default_factory=dict)
    greedy_prompts: int | None = None
    greedy_equal: bool | None = None
    texts: dict[str, TextCheck] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Returns the checks that were made."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def verify_zero(
    base: ModelFolder, source: Checkpoint, folder: Path, mixtures: Mapping[str, RowMixtures], probe: Probe
) -> ZeroChecks:
    """Re-opens a Zero model and compares it with its base.

    Args:
        base: The base model.
        source: The base's weights under the names of the running model, in the dtype of the Zero model.
        folder: The folder of the Zero model.
        mixtures: How the new rows of both embeddings were mixed from old ones; empty if they are random.
        probe: What both models are asked; they are not loaded if it asks nothing.

    Raises:
        ModelError: If a check fails.
    """
    opened = ModelFolder.open(folder)
    zero, num_old = opened.checkpoint, len(base.tokenizer)
    means = {name: _check_old_rows(name, zero, source, num_old) for name in zero.architecture.both_embeddings}
    distances = [
        _distance_from_convexity(name, source, zero, num_old, mixed, means[name]) for name, mixed in mixtures.items()
    ]
    return ZeroChecks(
        old_rows_bit_equal=True,
        largest_distance_from_convexity_in_ulp=max(distances, default=None),
        row_copies=count_copies(zero, num_old, len(opened.tokenizer) - num_old),
        greedy_prompts=len(PROMPTS) if probe.greedy else None,
        greedy_equal=True if probe.greedy else None,
        texts=compare_outputs(base, opened, source.dtype, probe) if probe.greedy or probe.texts else {},
    )


def _check_old_rows(name: str, zero: Checkpoint, source: Checkpoint, num_old: int) -> Tensor:
    """Checks that old rows are those of the base, bit for bit, and returns their mean, (D,), in fp64."""
    total_D = torch.zeros(source.tensors[name].shape[1:], dtype=torch.float64)
    blocks = zip(zero.tensors[name].blocks(0, num_old), source.tensors[name].blocks(0, num_old), strict=True)
    for number, (written_ND, expected_ND) in enumerate(blocks):
        if not torch.equal(written_ND.view(torch.uint8), expected_ND.view(torch.uint8)):
            raise ModelError(f"{name}: old rows differ from the base's in block {number}")
        total_D += written_ND.double().sum(0)
    return total_D / num_old


def _distance_from_convexity(
    name: str, base: Checkpoint, zero: Checkpoint, num_old: int, mixtures: RowMixtures, mean_D: Tensor
) -> float:
    """Returns the largest distance of a new row from its convex combination of old rows, in ulp of the stored dtype."""
    worst, num_new = 0.0, len(mixtures)
    for start in range(0, num_new, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, num_new)
        exact_ND = mixtures.rows(base.tensors[name], mean_D, start, stop)
        stored_ND = zero.tensors[name].read(num_old + start, num_old + stop)
        worst = max(worst, float(((stored_ND.double() - exact_ND).abs() / _ulp(exact_ND, stored_ND.dtype)).max()))
    if worst > 1:
        raise ModelError(f"{name}: new rows are up to {worst:.2f} ulp away from a convex combination of old rows")
    return round(worst, 3)


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the distance between neighboring numbers of the dtype at each value; constant for subnormal numbers."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)
