"""Settings of the trainer that would train something else than they seem to."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from lit_modules.zero2 import ZeRO2


def check_trainer(trainer: Trainer) -> None:
    """Checks strategy, precision and clipping.

    Raises:
        ValueError: If the strategy is DeepSpeed without `ZeRO2`, if the optimizer would work on 16-bit weights, or if
            the limit of the gradients is negative.
    """
    strategy, precision = trainer.strategy, str(trainer.precision)
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ZeRO2):
        raise ValueError(
            "`strategy`: Lightning's DeepSpeed strategy divides accumulated gradients twice and does not verify "
            "checkpoints; set it to lit_modules.ZeRO2"
        )
    if precision.endswith("16-true") and not isinstance(strategy, ZeRO2):  # which keeps weights in fp32 as well
        raise ValueError(
            f"`precision` {precision} would train in 16 bits, in which most updates are rounded to nothing; set it to "
            f"{precision.replace('true', 'mixed')}"
        )
    clip = trainer.gradient_clip_val or 0
    if clip < 0:
        raise ValueError(f"trainer.gradient_clip_val ({clip}) must not be negative: steps would go uphill")
