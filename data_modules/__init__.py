"""Data modules: documents and conversations as batches of token ids."""

from data_modules.pretraining import PackedPretrainingData
from data_modules.sft import PaddedSFTData
from data_modules.sources import ChatSource, TextSource

__all__ = ["ChatSource", "PackedPretrainingData", "PaddedSFTData", "TextSource"]
