"""Batches: documents and conversations as rows of ids."""

from data_modules.pretraining import PackedPretrainingData
from data_modules.sources import TextSource

__all__ = ["PackedPretrainingData", "TextSource"]
