"""Model folders as `GlmForCausalLM`."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GlmConfig, GlmForCausalLM

from glmja.checkpoint import Checkpoint
from glmja.model_folder import check_folder
from glmja.tokenizer import FILE_NAME as TOKENIZER


def load_model(
    folder: str | Path, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> GlmForCausalLM:
    """Loads weights in either layout, without remote code.

    Args:
        folder: Folder of weights, and of a tokenizer if they are to be checked against one.
        dtype: Of the parameters; as stored if None.
        attn_implementation: One that `transformers` knows for Glm: `eager`, `sdpa`, `flex_attention`, …

    Raises:
        OSError: If a file does not exist.
        ValueError: If the weights are damaged, of another architecture, or do not belong to the tokenizer.
    """
    checkpoint = Checkpoint.open(folder).as_glm()
    if (Path(folder) / TOKENIZER).is_file():  # a folder may hold weights alone
        check_folder(folder)
    return model_of(checkpoint, dtype, attn_implementation)


def model_of(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> GlmForCausalLM:
    """The model of weights under Glm's names; arguments as `load_model`."""
    config = GlmConfig(**{k: v for k, v in checkpoint.config.items() if k not in ("model_type", "dtype")})
    config._attn_implementation = attn_implementation
    with torch.device("meta"):
        model = GlmForCausalLM(config)
    weights = {name: source.read_all().to(dtype or source.dtype) for name, source in checkpoint.tensors.items()}
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are computed, not stored
    return model.eval()
