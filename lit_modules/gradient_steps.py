"""Clipping of gradients, and optimizer steps that are skipped because a gradient is not finite."""

from __future__ import annotations

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lit_modules.zero2 import ZeRO2


class GradientSteps:
    """Clips gradients, skips steps that are not finite, and counts them.

    Under ZeRO-2, DeepSpeed does all of this; this class then only reports what DeepSpeed has measured.
    """

    def __init__(self) -> None:
        """Creates a counter that starts at zero."""
        self._num_skipped = 0
        self._norm: Tensor | None = None

    def clip(self, module: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str | None) -> None:
        """Clips as Lightning does, keeps the norm for `norm`, and skips the step if a gradient is not finite.

        Args:
            module: The module, attached to a trainer.
            optimizer: Its optimizer.
            value: Largest norm or largest absolute value of the gradients; None or 0 does not clip.
            algorithm: `norm` or `value`; the norm by default.

        Raises:
            ValueError: If the optimizer is fused and the gradients are scaled, and would be clipped while scaled.
        """
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)  # only with precision 16-mixed
        by_value = algorithm == "value"
        if not by_value and scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"a fused {type(optimizer).__name__} under precision {module.trainer.precision} would get gradients "
                "that are clipped while they are scaled; set `fused` to false"
            )
        parameters = [p for p in module.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._norm = norm
        if scaler is None and not torch.isfinite(norm):
            optimizer.zero_grad()  # an optimizer ignores parameters without a gradient, and keeps their state
            self._num_skipped += 1
        elif by_value:
            module.clip_gradients(optimizer, value, algorithm)
        elif value:
            clip_grads_with_norm_(parameters, float(value), norm)

    def num_skipped(self, strategy: object) -> int:
        """Returns how many steps changed no weight because a gradient was not finite; a scaler's are not counted."""
        return strategy.num_skipped_steps if isinstance(strategy, ZeRO2) else self._num_skipped

    def norm(self, strategy: object) -> Tensor | float | None:
        """Returns the norm of the gradients of the last step before clipping; None before the first step."""
        return strategy.grad_norm if isinstance(strategy, ZeRO2) else self._norm
