"""Protocols of training modules and their loaders, on which callbacks rely.

The packages that import Lightning import this module instead of each other. A class may inherit from a protocol, or
implement it without inheriting.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from glmja.modeling.batch import Batch
from glmja.modeling.training_clock import TrainingClock
from glmja.tokenization.tokenizer import GLMTokenizer


@runtime_checkable
class TrainingModule(Protocol):
    """A LightningModule that trains a GLM.

    Attributes:
        model: The GLM, possibly inside a `PeftModel`; None until the weights are loaded.
        tokenizer: Its tokenizer.
        clock: Measures the time spent on training. Whoever does something else stops it.
    """

    model: Any
    tokenizer: GLMTokenizer
    clock: TrainingClock

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the summed loss in nats that training minimizes, and the target tokens, (N,)."""
        ...

    @property
    def num_skipped_steps(self) -> int:
        """Optimizer steps that changed no weight because a gradient was not finite."""
        ...


@runtime_checkable
class DistillationModule(Protocol):
    """A LightningModule that may train rows of some languages with a teacher, which costs a second forward pass."""

    @property
    def retained_languages(self) -> Collection[str]:
        """Languages whose rows have a teacher."""
        ...

    def teacher_flops(self, batch: Batch) -> int:
        """Returns the floating-point operations of the teacher's forward pass over a batch."""
        ...


@runtime_checkable
class TrainingLoader(Protocol):
    """Loader of the micro-batches of one rank."""

    def largest(self) -> Batch:
        """Returns the micro-batch that needs the most memory."""
        ...


def training_module(module: object) -> TrainingModule:
    """Returns a module as a `TrainingModule`.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(module, TrainingModule):
        raise ValueError(
            f"{type(module).__name__} has no model, tokenizer, loss, clock or num_skipped_steps, which this callback "
            "needs; use a class of lit_modules"
        )
    return module


def retained_languages(module: object) -> Collection[str]:
    """Returns the languages whose rows a module trains with a teacher; none for other modules."""
    return module.retained_languages if isinstance(module, DistillationModule) else ()


def teacher_flops(module: object, batch: Batch) -> int:
    """Returns the floating-point operations of a module's teacher over a batch; 0 for other modules."""
    return module.teacher_flops(batch) if isinstance(module, DistillationModule) else 0
