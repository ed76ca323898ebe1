"""Choices of how weights are written, without torch: the help of the commands lists them."""

from __future__ import annotations

from typing import Literal

DtypeName = Literal["float32", "float16", "bfloat16"]

# of new embedding rows; see `glmja.weights.row_mixtures`
Init = Literal["positional", "calibrated", "subtoken_mean", "mean", "random"]

MAX_SHARD_SIZE = 2_000_000_000  # bytes
