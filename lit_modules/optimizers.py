"""Optimizers that a configuration names: tried before a run, and described for its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import LBFGS, Optimizer

from lit_modules.schedules import describe

_MATRIX, _VECTOR = (32, 32), (32,)


def try_optimizer(create: OptimizerCallable, matrices_only: bool = False) -> Optimizer:
    """Returns an optimizer of small parameters after one step; the first parameter is a matrix.

    Args:
        create: Creates the optimizer of a run.
        matrices_only: Whether the run trains matrices only, and no vectors.

    Raises:
        ValueError: If an argument is out of range, or the optimizer does not work for such parameters.
    """
    shapes: Sequence[tuple[int, ...]] = [_MATRIX] if matrices_only else [_MATRIX, _VECTOR]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = create(parameters)
        if isinstance(optimizer, LBFGS):
            raise ValueError("LBFGS computes the loss of a step several times, on batches that are read once")
        optimizer.step()
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"`optimizer`: {reason}; correct it, or use torch.optim.AdamW") from error
    return optimizer


def describe_optimizer(create: OptimizerCallable) -> dict[str, Any]:
    """Returns class and hyperparameters of an optimizer, as types of JSON."""
    optimizer = create([nn.Parameter(torch.zeros(_MATRIX))])
    return describe(type(optimizer), optimizer.defaults)
