"""Validation over several sources of text, each in one language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric


class Source(Protocol):
    """What is to be known of a source."""

    @property
    def name(self) -> str:
        """As in `val/NAME/loss`."""

    @property
    def lang(self) -> str:
        """As in `val/LANG/bits_per_char`."""


class ValidationMetrics(nn.Module):
    """Loss of each source and bits per character of each language, over all batches and ranks.

    Means are over tokens and characters, not over batches. Losses of a token cannot be compared between tokenizers,
    bits per character can.
    """

    characters_per_id: Tensor

    def __init__(self, sources: Sequence[Source], num_characters: Sequence[int]) -> None:
        """Starts empty.

        Args:
            sources: In the order of the loaders.
            num_characters: What each id writes, as `GLMTokenizer.num_characters`.
        """
        super().__init__()
        self.sources = sources
        self.langs = sorted({source.lang for source in sources})
        self.losses = [MeanMetric() for _ in sources]
        self.bits = [SumMetric() for _ in self.langs]
        self.characters = [SumMetric() for _ in self.langs]
        # moves them to the model's device; a ModuleDict would not take every name
        self.metrics = nn.ModuleList([*self.losses, *self.bits, *self.characters])
        self.register_buffer("characters_per_id", torch.tensor(num_characters), persistent=False)

    def update(self, number: int, total: Tensor, labels_N: Tensor) -> None:
        """Adds a batch of one source: its summed loss in nats, and the labels that it was summed over."""
        if labels_N.numel() == 0:
            return
        lang = self.langs.index(self.sources[number].lang)
        self.losses[number].update(total / labels_N.numel(), weight=labels_N.numel())
        self.bits[lang].update(total / math.log(2))
        self.characters[lang].update(self.characters_per_id[labels_N].sum())

    def compute(self) -> dict[str, Tensor]:
        """`val/NAME/loss` in nats per token, and `val/LANG/bits_per_char`."""
        values = {
            f"val/{source.name}/loss": loss.compute() for source, loss in zip(self.sources, self.losses, strict=True)
        }
        for lang, bits, characters in zip(self.langs, self.bits, self.characters, strict=True):
            values[f"val/{lang}/bits_per_char"] = bits.compute() / characters.compute().clamp(min=1)
        return values

    def reset(self) -> None:
        """Starts again."""
        for metric in [*self.losses, *self.bits, *self.characters]:
            metric.reset()
