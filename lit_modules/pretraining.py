"""Continued pretraining on packed rows of text."""

from __future__ import annotations

from lit_modules.base import GLMModule


class PackedPretraining(GLMModule):
    """Learns every token of packed rows; validates in bits per character, which tokenizers can be compared by."""
