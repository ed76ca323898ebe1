"""A GLM small enough to train on a processor, and the texts that it trains on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import GlmForCausalLM

from benchmarks.harness.arguments import data_folder
from glmja.files.documents import read_documents
from glmja.modeling.adapters import Embeddings, Lora, apply_tuning
from glmja.modeling.loading import load_model
from glmja.twin import build as twin

NUM_PIECES, NUM_PIECES_WITHOUT_DATA = 19_900, 2_500
HIDDEN_SIZE, NUM_LAYERS = 512, 8

_DOCUMENTS_PER_LANGUAGE = 1500


def write_model(folder: Path, data: Path | None = None) -> None:
    """Writes weights and tokenizer of the tiny GLM.

    Args:
        folder: New folder.
        data: Folder with `text/{ja,zh,en}.jsonl.gz`. Where it is absent, a smaller vocabulary is trained on
            the texts that ship with the package.
    """
    files = text_files(data)
    texts = [t for file in files.values() for t in islice(read_documents([file]), _DOCUMENTS_PER_LANGUAGE)]
    num_pieces = NUM_PIECES if files["ja"].suffix == ".gz" else NUM_PIECES_WITHOUT_DATA
    twin.build_base(folder, texts, num_pieces, HIDDEN_SIZE, NUM_LAYERS)


def text_files(data: Path | None = None) -> dict[str, Path]:
    """Returns a file of documents for each language."""
    folder = (data or data_folder()) / "text"
    return {name: folder / f"{name}.jsonl.gz" if folder.is_dir() else twin.text_file(name) for name in twin.LANGUAGES}


def load_trainable(folder: str, embeddings: Embeddings = "full") -> nn.Module:
    """Loads the model in fp32 with LoRA adapters, which are the same in each process."""
    model: GlmForCausalLM = load_model(folder, torch.float32)
    torch.manual_seed(0)
    trainable = apply_tuning(model, "lora", embeddings, Lora(), [])
    return trainable.train()


def plan_batches(data: Any) -> Any:
    """Sets up a data module for one device without a Trainer."""
    data.trainer = SimpleNamespace(
        world_size=1, global_rank=0, accumulate_grad_batches=1, max_steps=-1, max_epochs=1, limit_train_batches=1.0
    )
    data.prepare_data()
    data.setup("fit")
    return data
