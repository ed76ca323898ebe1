"""Resizes embedding matrices: old rows stay unchanged, rows for new pieces follow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import dtype_name
from glmja.weights.row_mixtures import ROWS_PER_BLOCK, RowMixtures
from glmja.weights.tensors import ComputedTensor, JoinedTensor, Part, TensorSource, all_finite

_RANDOM_STD = 0.02


def read_embeddings(
    source: Checkpoint, num_old: int, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], str]:
    """Reads the old rows of both embeddings, and returns their means and a hash.

    Args:
        source: The base.
        num_old: Number of rows that belong to token ids; the others are padding.
        dtype: Dtype in which the rows will be written; as stored if None. The means are those of the written rows.

    Returns:
        The mean row of each matrix, (D,) in fp64; and the SHA-256 of the names, dtypes and shapes of all tensors and of
        the bytes of the old rows.

    Raises:
        ValueError: If a row holds NaN or infinity.
    """
    shapes = sorted((name, str(tensor.dtype), *tensor.shape) for name, tensor in source.tensors.items())
    digest, means = hashlib.sha256(repr(shapes).encode()), {}
    for name in source.architecture.both_embeddings:
        tensor = source.tensors[name]
        total_D = torch.zeros(tensor.shape[1:], dtype=torch.float64)
        for block_ND in tensor.blocks(0, num_old):
            digest.update(block_ND.contiguous().view(torch.uint8).numpy().data)
            total_D += block_ND.to(dtype or tensor.dtype).double().sum(0)
        if not all_finite(total_D):  # NaN and infinity propagate to the sum
            _raise_non_finite(tensor, num_old, name, dtype or tensor.dtype)
        means[name] = total_D / num_old
    return means, digest.hexdigest()


def resize(
    source: Checkpoint,
    means: Mapping[str, Tensor],
    num_old: int,
    new_rows: Mapping[str, RowMixtures] | Mapping[str, Tensor],
    num_rows: int,
) -> dict[str, TensorSource]:
    """Returns both embedding matrices with their old rows unchanged and new rows after them.

    Args:
        source: The base; rows of its embeddings from `num_old` on are padding and are dropped.
        means: The mean of the old rows of each matrix, (D,) in fp64; padding rows get it.
        num_old: Number of rows to keep.
        new_rows: How the new rows of each matrix are mixed from old ones, or the new rows themselves, (new rows, D).
        num_rows: Number of rows of the new matrices.
    """
    return {
        name: _resized(source.tensors[name], mean_D, num_old, new_rows[name], num_rows)
        for name, mean_D in means.items()
    }


def _resized(
    source: TensorSource, mean_D: Tensor, num_old: int, new_rows: RowMixtures | Tensor, num_rows: int
) -> TensorSource:
    num_below = num_rows - num_old

    def below(start: int, stop: int) -> Tensor:
        rows_ND = mean_D.to(source.dtype).repeat(stop - start, 1)
        for first in range(start, min(stop, len(new_rows)), ROWS_PER_BLOCK):
            end = min(first + ROWS_PER_BLOCK, stop, len(new_rows))
            rows_ND[first - start : end - start] = (
                new_rows[first:end] if isinstance(new_rows, Tensor) else new_rows.rows(source, mean_D, first, end)
            )
        return rows_ND

    computed = ComputedTensor(source.dtype, (num_below, *source.shape[1:]), below)
    return JoinedTensor([Part(source, 0, num_old), Part(computed, 0, num_below)])


def random_rows(means: Mapping[str, Tensor], num_rows: int, seed: int) -> dict[str, Tensor]:
    """Draws rows of the width of each mean from a normal distribution with standard deviation 0.02, in fp32."""
    return {
        name: _RANDOM_STD * torch.randn(num_rows, *mean_D.shape, generator=torch.Generator().manual_seed(seed))
        for name, mean_D in means.items()
    }


def _raise_non_finite(source: TensorSource, num_rows: int, name: str, dtype: torch.dtype) -> None:
    blocks = source.blocks(0, num_rows)
    bad_N = torch.cat([~torch.isfinite(block_ND.to(dtype)).all(1) for block_ND in blocks])
    if bad_N.any():
        first, where = int(bad_N.nonzero()[0]), "" if dtype == source.dtype else f" in {dtype_name(dtype)}"
        raise ModelError(f"{name} of the base: row {first} holds NaN or infinity{where} ({int(bad_N.sum())} such rows)")
