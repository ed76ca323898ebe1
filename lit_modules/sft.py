"""Supervised fine-tuning."""

from __future__ import annotations

from lit_modules.base import GLMModule


class PaddedSFT(GLMModule):
    """Trains on the assistant's tokens in padded or packed rows, and validates on those of held-out conversations."""
