"""Continued pretraining on packed rows of text."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import ModuleList
from torchmetrics import MeanMetric, SumMetric

from glmja.batch import Batch
from lit_modules.base import GLMModule


class PackedPretraining(GLMModule):
    """Learns every token of packed rows; validates in bits per character, which tokenizers can be compared by."""

    characters_per_id: Tensor

    def setup(self, stage: str) -> None:
        """Makes the metrics of the sources that the data module validates on."""
        sources = self.trainer.datamodule.validation_sources  # type: ignore[attr-defined]
        self.val_names = [source.name for source in sources]
        self.val_langs = [source.lang for source in sources]
        self.val_loss = [MeanMetric() for _ in sources]
        self.val_bits = {lang: SumMetric() for lang in self.val_langs}
        self.val_characters = {lang: SumMetric() for lang in self.val_langs}
        # moves them to the model's device; a ModuleDict would not take every name
        self.val_metrics = ModuleList([*self.val_loss, *self.val_bits.values(), *self.val_characters.values()])
        characters = torch.tensor(self.tokenizer.num_characters)
        self.register_buffer("characters_per_id", characters, persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a token, in nats."""
        total, labels_N = self.loss(batch)
        loss = total / max(1, labels_N.numel())
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch of one source to its metrics; all are means over tokens or characters, not over batches."""
        total, labels_N = self.loss(batch)
        if labels_N.numel() == 0:
            return
        lang = self.val_langs[dataloader_idx]
        self.val_loss[dataloader_idx].update(total / labels_N.numel(), weight=labels_N.numel())
        self.val_bits[lang].update(total / math.log(2))
        self.val_characters[lang].update(self.characters_per_id[labels_N].sum())

    def on_validation_epoch_end(self) -> None:
        """Logs `val/SOURCE/loss` and `val/LANG/bits_per_char`."""
        for name, metric in zip(self.val_names, self.val_loss, strict=True):
            self.log(f"val/{name}/loss", metric.compute())
            metric.reset()
        for lang in self.val_bits:
            bits, characters = self.val_bits[lang], self.val_characters[lang]
            self.log(f"val/{lang}/bits_per_char", bits.compute() / characters.compute().clamp(min=1))
            bits.reset()
            characters.reset()
