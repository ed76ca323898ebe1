"""Metrics of several validation sources, each in one language."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric

from glmja.runs.contracts import ValidationSource


class ValidationMetrics(nn.Module):
    """Loss of each source and bits per character of each language, over all batches and ranks.

    Means are over tokens and characters, not over batches. Losses per token are not comparable across tokenizers, bits
    per character are.
    """

    characters_per_id: Tensor

    def __init__(self, sources: Sequence[ValidationSource], num_characters: Sequence[int]) -> None:
        """Creates empty metrics.

        Args:
            sources: Sources in the order of the validation loaders.
            num_characters: Number of characters of each id, as `GLMTokenizer.num_characters`.
        """
        super().__init__()
        self.sources = sources
        self.langs = sorted({source.lang for source in sources})
        self.losses = [MeanMetric() for _ in sources]
        self.bits = [SumMetric() for _ in self.langs]
        self.characters = [SumMetric() for _ in self.langs]
        # a ModuleList moves them to the model's device; a ModuleDict does not accept every name
        self.metrics = nn.ModuleList([*self.losses, *self.bits, *self.characters])
        self.register_buffer("characters_per_id", torch.tensor(num_characters), persistent=False)

    @staticmethod
    def names(sources: Sequence[ValidationSource]) -> set[str]:
        """Returns the names of the metrics of `compute`."""
        losses = {f"val/{source.name}/loss" for source in sources}
        return losses | {f"val/{source.lang}/bits_per_char" for source in sources}

    def update(self, number: int, total: Tensor, targets_N: Tensor) -> None:
        """Adds a batch of one source: its summed loss in nats, and the target tokens that it was summed over."""
        if targets_N.numel() == 0:
            return
        lang = self.langs.index(self.sources[number].lang)
        self.losses[number].update(total / targets_N.numel(), weight=targets_N.numel())
        self.bits[lang].update(total / math.log(2))
        self.characters[lang].update(self.characters_per_id[targets_N].sum())

    def compute(self) -> dict[str, Tensor]:
        """Returns `val/NAME/loss` in nats per token, and `val/LANG/bits_per_char`."""
        values = {
            f"val/{source.name}/loss": loss.compute() for source, loss in zip(self.sources, self.losses, strict=True)
        }
        for lang, bits, characters in zip(self.langs, self.bits, self.characters, strict=True):
            values[f"val/{lang}/bits_per_char"] = bits.compute() / characters.compute().clamp(min=1)
        return values

    def reset(self) -> None:
        """Empties the metrics."""
        for metric in [*self.losses, *self.bits, *self.characters]:
            metric.reset()
