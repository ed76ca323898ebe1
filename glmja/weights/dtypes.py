"""Names of torch's dtypes, as configs and reports write them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch

from glmja.errors import ModelError


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a dtype, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def common_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Returns the smallest dtype that holds all values of the given ones exactly; float32 if none is given."""
    return reduce(torch.promote_types, list(dict.fromkeys(dtypes)) or [torch.float32])


def dtype_named(name: str) -> torch.dtype:
    """Returns the dtype of a name; the inverse of `dtype_name`.

    Raises:
        ModelError: If torch has no dtype of that name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"{name!r} is not a dtype of torch")
    return dtype
