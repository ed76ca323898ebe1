"""Counts the floating-point operations of a training step: the numerator of model FLOPs utilization (MFU)."""

from __future__ import annotations

from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel

from glmja.weights.architectures import architecture_of
from glmja.weights.peft_names import is_lora


def flops_per_token(
    config: PretrainedConfig,
    row_len: float,
    num_lora_parameters: int,
    train_embeddings: bool,
    train_transformer: bool = False,
) -> float:
    """Returns the floating-point operations of training per token, forward and backward.

    A multiplication and an addition count as two. With N parameters in the transformer's linear layers, E in the head,
    P in the adapters, and A operations of causal attention (QKᵀ and PV, each 2 × T × width × layers, of which half
    are masked):

    - forward: 2N + 2E + 2P + A. Looking up an embedding is free.
    - backward to the activations: 2N + 2E + 2P + 2A.
    - backward to the trainable weights: 2P; 2E if the embeddings train (the gradient of the input embedding is a
      scatter, which is free); 2N if the transformer trains.

    So adapters with embeddings take 4N + 6E + 3A + 6P, and adapters alone 4N + 4E + 3A + 6P. The rule of thumb 6N would
    count gradients of frozen weights, too, which is half as much again. Recomputation (gradient checkpointing, flash
    attention) is a cost of the method, not of the model, and is not counted. Norms, rotary embeddings, softmax and the
    optimizer are below 1 % and are not counted, either.

    Args:
        config: Config of the model.
        row_len: Length of the attention context in tokens: of a sequence, or of its documents if these are isolated,
            then the mean weighted by tokens (Σ len² / Σ len).
        num_lora_parameters: Number of parameters of all adapters.
        train_embeddings: Whether the input and output embeddings train; some rows count as all.
        train_transformer: Whether the transformer's own weights train.
    """
    linears, mixing = _linear_parameters(config), _mixing(config, row_len)
    head, lora = config.vocab_size * config.hidden_size, num_lora_parameters

    forward = 2 * linears + 2 * head + 2 * lora + mixing
    to_activations = 2 * linears + 2 * head + 2 * lora + 2 * mixing
    to_weights = 2 * lora + 2 * head * train_embeddings + 2 * linears * train_transformer
    return float(forward + to_activations + to_weights)


def forward_flops_per_token(config: PretrainedConfig, row_len: float, num_ids: int) -> float:
    """Returns the floating-point operations per token of a forward pass without adapters: 2N + 2E + A.

    Args:
        config: Config of the model.
        row_len: See `flops_per_token`.
        num_ids: Number of ids that the head computes logits of.
    """
    return float(2 * _linear_parameters(config) + 2 * num_ids * config.hidden_size + _mixing(config, row_len))


def _linear_parameters(config: PretrainedConfig) -> int:
    """Returns the number of parameters of the transformer's linear layers."""
    width, heads_width = config.hidden_size, config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    num_mlp_matrices = architecture_of({"model_type": config.model_type}).num_mlp_matrices
    attention = 2 * width * heads_width + 2 * width * key_width  # query and output, key and value
    linears: int = config.num_hidden_layers * (attention + num_mlp_matrices * width * config.intermediate_size)
    return linears


def _mixing(config: PretrainedConfig, row_len: float) -> float:
    """Returns the operations of causal attention per token of a forward pass."""
    return float(2 * row_len * config.num_attention_heads * config.head_dim * config.num_hidden_layers)


def training_flops_per_token(model: PreTrainedModel | PeftModel, row_len: float) -> float:
    """Returns `flops_per_token` of a model, by the parameters that require a gradient.

    Args:
        model: A `PreTrainedModel` or the `PeftModel` around one.
        row_len: See `flops_per_token`.
    """
    lora = embeddings = transformer = 0
    names_of_embeddings = architecture_of({"model_type": model.config.model_type}).layers.embeddings
    for name, parameter in model.named_parameters():
        if is_lora(name):
            lora += parameter.numel()
        elif any(embedding in name for embedding in names_of_embeddings):
            embeddings += parameter.requires_grad
        else:
            transformer += parameter.requires_grad
    return flops_per_token(model.config, row_len, lora, embeddings > 0, transformer > 0)
