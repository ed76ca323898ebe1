"""Checks a converted model, read back from its files."""

from __future__ import annotations

from pathlib import Path

import torch

from glmja.errors import ModelError
from glmja.modeling.model_folder import ModelFolder
from glmja.weights.checkpoint import Checkpoint


def verify_conversion(source: Checkpoint, folder: Path) -> int:
    """Re-opens a converted model and compares each tensor with its source, bit for bit.

    Args:
        source: The weights that were written, under the names of the running model.
        folder: The written folder.

    Returns:
        The number of tensors.

    Raises:
        ModelError: If a tensor differs, or the folder does not open as a model.
    """
    written = ModelFolder.open(folder).checkpoint
    for name, tensor in source.tensors.items():
        found, rows = written.tensors[name], tensor.shape[0]
        for block, expected in zip(found.blocks(0, rows), tensor.blocks(0, rows), strict=True):
            if found.dtype != tensor.dtype or not torch.equal(block.view(torch.uint8), expected.view(torch.uint8)):
                raise ModelError(f"{name} of the converted model differs from that of {source.folder}")
    return len(source.tensors)
