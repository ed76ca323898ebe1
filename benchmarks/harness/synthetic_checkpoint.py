"""Writes a checkpoint with the layout, shapes and size of ChatGLM3-6B, and random weights.

All rows of both embeddings are random. The layers are copies of one random layer, each written in full.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch

from glmja.weights.chatglm_layout import expected_shapes, to_glm_config
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import MemoryTensor, TensorSource

_SHARD_BYTES = 1_830_000_000  # ChatGLM3-6B's largest file has 1.83 GB


def write_checkpoint(folder: Path, reference: Path, num_layers: int, seed: int = 0) -> int:
    """Writes weights, config and tokenizer; returns the number of bytes.

    Args:
        folder: New folder.
        reference: Folder with ChatGLM3-6B's `config.json` and `tokenizer.model`.
        num_layers: Number of layers to write.
        seed: Seed of the random weights.
    """
    folder.mkdir()
    config = json.loads((reference / "config.json").read_text(encoding="utf-8")) | {"num_layers": num_layers}
    glm_config = to_glm_config(config)
    Checkpoint(folder, glm_config, _weights(glm_config, seed)).as_chatglm().save(folder, _SHARD_BYTES)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(reference / "tokenizer.model", folder)
    return folder_bytes(folder)


def _weights(config: dict, seed: int) -> dict[str, TensorSource]:
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, TensorSource] = {}
    weights: dict[str, TensorSource] = {}
    for name, shape in expected_shapes(config).items():
        key = re.sub(r"layers\.\d+", "layers.0", name)
        if key not in made:
            made[key] = MemoryTensor((0.02 * torch.randn(shape, generator=generator)).half())
        weights[name] = made[key]
    return weights


def folder_bytes(folder: Path) -> int:
    """Returns the total size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
