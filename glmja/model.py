"""Model folders as `GlmForCausalLM`, and which of its parameters train."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GlmConfig, GlmForCausalLM

from glmja.checkpoint import Checkpoint
from glmja.json_file import read_json
from glmja.layout import check_glm_config, layout_of, to_glm_config
from glmja.tokenizer import FILE_NAME as TOKENIZER
from glmja.tokenizer import GLMTokenizer

Embeddings = Literal["frozen", "full"]

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


def check_vocabulary(num_rows: int, tokenizer: GLMTokenizer, folder: str | Path) -> None:
    """Checks that every id of the tokenizer has a row in the embeddings.

    Raises:
        ValueError: If not; gives both numbers.
    """
    if len(tokenizer) > num_rows:
        raise ValueError(
            f"{folder}: the tokenizer makes {len(tokenizer)} ids but the model has only {num_rows} rows; they do not "
            "belong together (python -m glmja.resize_embeddings makes a model for a tokenizer)"
        )


def check_folder(folder: str | Path) -> GLMTokenizer:
    """Checks in a moment, without loading weights, that a model folder is whole; returns its tokenizer.

    Raises:
        OSError: If there is no config or tokenizer.
        ValueError: If model and tokenizer do not belong together, or the architecture is unknown.
    """
    config = read_json(Path(folder) / "config.json")
    if layout_of(config) == "chatglm":
        config = to_glm_config(config)
    check_glm_config(config)
    tokenizer = GLMTokenizer.load(folder)
    check_vocabulary(config["vocab_size"], tokenizer, folder)
    return tokenizer


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
    config = GlmConfig(**{k: v for k, v in checkpoint.config.items() if k not in ("model_type", "dtype")})
    config._attn_implementation = attn_implementation
    with torch.device("meta"):
        model = GlmForCausalLM(config)
    weights = {name: source.read_all() for name, source in checkpoint.tensors.items()}
    model.load_state_dict({name: weight.to(dtype or weight.dtype) for name, weight in weights.items()}, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are computed, not stored
    return model.eval()


def add_lora(
    model: GlmForCausalLM, rank: int, alpha: int, dropout: float, targets: list[str] | None = None
) -> PeftModel:
    """Freezes the model and adds low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Args:
        model: The model; changed in place.
        rank: Of the adapters.
        alpha: The update is scaled by `alpha / rank`.
        dropout: Probability of dropping an input of an adapter.
        targets: Names of the linear layers; all of the transformer's if None.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets or LINEAR_LAYERS, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def train_embeddings(model: nn.Module, embeddings: Embeddings) -> None:
    """Decides whether the input and output embeddings train.

    peft's `modules_to_save` would keep a frozen second copy of both (1.3 GB each way at 6B).
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            parameter.requires_grad_(embeddings == "full")
