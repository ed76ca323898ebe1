"""Losses, optimizers and what they train."""

from lit_modules.pretraining import PackedPretraining
from lit_modules.schedules import WarmupCosine

__all__ = ["PackedPretraining", "WarmupCosine"]
