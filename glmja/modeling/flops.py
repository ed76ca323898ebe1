"""How many floating-point operations a training step needs: the numerator of model FLOPs utilisation (MFU)."""

from __future__ import annotations

from torch import nn
from transformers import GlmConfig


def flops_per_token(
    config: GlmConfig, row_len: float, num_lora_parameters: int, train_embeddings: bool, train_transformer: bool = False
) -> float:
    """Floating-point operations that training needs per token, forward and backward.

    A multiplication and an addition are two. With N parameters in the transformer's linear layers, E in the head,
    P in the adapters, and A operations of causal attention (QKᵀ and PV, each 2 × T × width × layers, and half of that
    since the other half is masked):

    - forward: 2N + 2E + 2P + A. Looking up an embedding is free.
    - backward to the activations: 2N + 2E + 2P + 2A.
    - backward to the weights that train: 2P; 2E if the embeddings do (the input's gradient is a scatter, free); 2N
      if the transformer does.

    So adapters with embeddings take 4N + 6E + 3A + 6P, and adapters alone 4N + 4E + 3A + 6P. "6N" would count
    gradients of frozen weights, half as much again. What is recomputed (checkpointing, flash attention) is not counted:
    it is the method's cost, not the model's. Norms, rotations, softmax and the optimizer are left out, below 1 %.

    Args:
        config: Of the model.
        row_len: Tokens that attention sees: of a row, or of its documents where these are isolated; the mean weighted
            by tokens (Σ len² / Σ len).
        num_lora_parameters: Parameters of all adapters.
        train_embeddings: Whether the input and output embeddings train; some rows of them count as all.
        train_transformer: Whether the transformer's own weights train.
    """
    width, heads_width = config.hidden_size, config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    attention = 2 * width * heads_width + 2 * width * key_width  # query and output, key and value
    linears = config.num_hidden_layers * (attention + 3 * width * config.intermediate_size)  # gate, up, down
    head, lora = config.vocab_size * width, num_lora_parameters
    mixing = 2 * row_len * heads_width * config.num_hidden_layers

    forward = 2 * linears + 2 * head + 2 * lora + mixing
    to_activations = 2 * linears + 2 * head + 2 * lora + 2 * mixing
    to_weights = 2 * lora + 2 * head * train_embeddings + 2 * linears * train_transformer
    return float(forward + to_activations + to_weights)


def training_flops_per_token(model: nn.Module, row_len: float) -> float:
    """`flops_per_token` of a model, with or without adapters, by what of it requires a gradient.

    Args:
        model: A `GlmForCausalLM` or the `PeftModel` around one.
        row_len: See `flops_per_token`.
    """
    lora = embeddings = transformer = 0
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            lora += parameter.numel()
        elif "embed_tokens" in name or "lm_head" in name:
            embeddings += parameter.requires_grad
        else:
            transformer += parameter.requires_grad
    return flops_per_token(model.config, row_len, lora, embeddings > 0, transformer > 0)
