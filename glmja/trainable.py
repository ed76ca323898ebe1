"""Which parameters of a model train."""

from __future__ import annotations

from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GlmForCausalLM

Embeddings = Literal["frozen", "full"]

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


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
