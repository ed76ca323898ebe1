"""The shape of ChatGLM3-6B with random weights on a GPU, and a tiny shape to try the benchmark on a processor."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GlmConfig, GlmForCausalLM

SIX_B = {
    "vocab_size": 78_592, "hidden_size": 4096, "intermediate_size": 13_696, "num_hidden_layers": 28,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "vocab_size": 2_048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 8192,
}  # fmt: skip


def random_model(config: dict[str, Any], attention: str) -> GlmForCausalLM:
    """Makes random bf16 weights on the device."""
    settings: dict[str, Any] = {"attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 0}
    glm = GlmConfig(**config, **settings)
    glm._attn_implementation = attention
    with torch.device("meta"):
        model = GlmForCausalLM(glm).to(torch.bfloat16)
    model.to_empty(device=device())
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.02)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    model.model.rotary_emb = type(model.model.rotary_emb)(glm).to(device())
    return model


def device() -> torch.device:
    """Returns the GPU, or the processor if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
