"""Supervised fine-tuning on conversations."""

from __future__ import annotations

from lit_modules.base import GLMModule


class PaddedSFT(GLMModule):
    """Learns what the assistant says, in padded or packed rows; validates on the answers of held-out conversations."""
