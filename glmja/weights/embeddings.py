"""Resizes embedding matrices: old rows stay unchanged, rows for new pieces follow."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from glmja.errors import ModelError
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.options import Init
from glmja.weights.tensors import ComputedTensor, JoinedTensor, Part, TensorSource, all_finite


def read_embeddings(source: Checkpoint, num_old: int) -> tuple[dict[str, Tensor], str]:
    """Reads the old rows of both embeddings, and returns their means and a hash.

    Args:
        source: The base.
        num_old: Number of rows that belong to token ids; the others are padding.

    Returns:
        The mean row of each matrix, (D,) in fp32; and the SHA-256 of the names, dtypes and shapes of all tensors and of
        the bytes of the old rows.

    Raises:
        ValueError: If a row holds NaN or infinity.
    """
    shapes = sorted((name, str(tensor.dtype), *tensor.shape) for name, tensor in source.tensors.items())
    digest, means = hashlib.sha256(repr(shapes).encode()), {}
    for name in (EMBEDDING, HEAD):
        tensor = source.tensors[name]
        total_D = torch.zeros(tensor.shape[1:], dtype=torch.float64)
        for block_ND in tensor.blocks(0, num_old):
            digest.update(block_ND.contiguous().view(torch.uint8).numpy().data)
            total_D += block_ND.float().sum(0)
        if not all_finite(total_D):  # NaN and infinity propagate to the sum
            _raise_non_finite(tensor, num_old, name)
        means[name] = (total_D / num_old).float()
    return means, digest.hexdigest()


def resize(
    source: TensorSource, mean_D: Tensor, num_old: int, spelled: list[list[int]], num_rows: int, init: Init, seed: int
) -> TensorSource:
    """Returns an embedding matrix with its old rows unchanged and new rows after them.

    Args:
        source: The old matrix, (rows, D); rows from `num_old` on are padding and are dropped.
        mean_D: The mean of the old rows.
        num_old: Number of rows to keep.
        spelled: For each new piece, the ids of the old pieces that spell it.
        num_rows: Number of rows of the new matrix.
        init: Initialization of new rows.
        seed: Seed of the initialization `random`.
    """
    num_new = num_rows - num_old
    generator = torch.Generator().manual_seed(seed)
    random_ND = 0.02 * torch.randn(len(spelled) if init == "random" else 0, *mean_D.shape, generator=generator)

    def new_rows(start: int, stop: int) -> Tensor:
        pieces = slice(start, min(stop, len(spelled)))
        rows_ND = mean_D.repeat(stop - start, 1)
        if init == "random":
            rows_ND[: len(random_ND[pieces])] = random_ND[pieces]
        elif init == "subtoken_mean" and spelled[pieces]:
            rows_ND[: len(spelled[pieces])] = source.mean_of(spelled[pieces])
        return rows_ND.to(source.dtype)

    below = ComputedTensor(source.dtype, (num_new, *source.shape[1:]), new_rows)
    return JoinedTensor([Part(source, 0, num_old), Part(below, 0, num_new)])


def _raise_non_finite(source: TensorSource, num_rows: int, name: str) -> None:
    bad_N = torch.cat([~torch.isfinite(block_ND).all(1) for block_ND in source.blocks(0, num_rows)])
    if bad_N.any():
        first = int(bad_N.nonzero()[0])
        raise ModelError(f"{name} of the base: row {first} holds NaN or infinity ({int(bad_N.sum())} such rows)")
