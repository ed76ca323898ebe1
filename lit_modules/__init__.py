"""Training modules, the ZeRO-2 strategy, and checkpoints."""

from lit_modules.checkpoint_folder import CheckpointFolders
from lit_modules.pretraining import PackedPretraining
from lit_modules.schedules import WarmupCosine
from lit_modules.sft import PaddedSFT
from lit_modules.zero2 import ZeRO2

__all__ = ["CheckpointFolders", "PackedPretraining", "PaddedSFT", "WarmupCosine", "ZeRO2"]
