"""Memory of a training run, computed from the shapes of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from lightning import Trainer
from transformers import GlmConfig

from lit_modules.zero2 import ZeRO2

_FP32, _FP16 = 4, 2  # bytes


def has_16_bits(precision: object) -> bool:
    """Returns whether a precision of Lightning's trainer, such as `bf16-mixed`, has 16 bits."""
    return not str(precision).startswith("32")


@dataclass(frozen=True)
class DeviceLayout:
    """Distribution of a run over devices.

    Attributes:
        num_devices: Number of devices on each machine.
        world_size: Number of devices on all machines.
        is_zero: Whether ZeRO-2 partitions gradients and optimizer state.
        is_offloaded: Whether ZeRO-2 keeps optimizer state and gradients on the host.
        is_16bit: Whether the precision of the trainer has 16 bits.
    """

    num_devices: int
    world_size: int
    is_zero: bool = False
    is_offloaded: bool = False
    is_16bit: bool = True

    @classmethod
    def of(cls, trainer: Trainer) -> Self:
        """Returns the layout of a trainer."""
        strategy = trainer.strategy
        is_zero = isinstance(strategy, ZeRO2)
        offloads = isinstance(strategy, ZeRO2) and strategy.offloads_optimizer
        return cls(trainer.num_devices, trainer.world_size, is_zero, offloads, has_16_bits(trainer.precision))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs at least: activations and buffers are not included.

    Attributes:
        weights: Weights, on each device.
        gradients: Gradients before an optimizer step, on each device.
        optimizer: Optimizer state on each device, including the fp32 weights that ZeRO keeps.
        host: Gradients and optimizer state that ZeRO offloads, of all devices of a machine.
        checkpoint: Size of a checkpoint on the disk.
    """

    weights: int
    gradients: int
    optimizer: int
    host: int
    checkpoint: int

    @property
    def device(self) -> int:
        """Bytes on each device."""
        return self.weights + self.gradients + self.optimizer


def model_memory(model: Any, state_bytes: int, layout: DeviceLayout) -> MemoryEstimate:
    """Computes the memory of weights, gradients and optimizer state.

    Under ZeRO-2, gradients and optimizer state are partitioned across the devices (Rajbhandari et al. 2019,
    https://arxiv.org/abs/1910.02054, section 5.2).

    Args:
        model: A model whose trainable parameters require gradients; it needs no data.
        state_bytes: Bytes of optimizer state for each trainable parameter.
        layout: How the run is spread over devices.
    """
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in parameters)
    state = state_bytes * trained
    if not layout.is_zero:
        return MemoryEstimate(stored, _FP32 * trained, state, 0, _FP32 * trained + state)
    working = _FP32 * trained
    if layout.is_16bit:  # the engine casts all weights
        stored, working = _FP16 * sum(p.numel() for p in parameters), _FP16 * trained
    gradients = _FP32 * trained // layout.world_size
    state += _FP32 * trained
    checkpoint, share = working + state, state // layout.world_size
    if layout.is_offloaded:
        return MemoryEstimate(stored, 0, 0, (gradients + share) * layout.num_devices, checkpoint)
    return MemoryEstimate(stored, gradients, share, 0, checkpoint)


def layer_activations(config: GlmConfig, num_bytes: int = _FP16) -> int:
    """Returns the bytes per token that a layer with adapters keeps for the backward pass.

    A layer of width D keeps the fp32 input of its two norms, and in 16 bits their outputs, which are inputs of linear
    layers; queries, keys, values and the output of attention; the gate, its activation, the other half and their
    product. Adapters keep `rank` numbers more for each input, which is left out. (As the count of Korthikanti et al.
    2022, https://arxiv.org/abs/2205.05198, section 4.1, for other layers.)

    Args:
        config: Config of the model.
        num_bytes: Bytes of a number in the linear layers.
    """
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return 2 * width * (_FP32 + num_bytes) + num_bytes * (2 * heads + 2 * keys + 4 * config.intermediate_size)


def activation_memory(
    config: GlmConfig, num_tokens: int, recompute: bool, chunk_len: int, train_head: bool, num_bytes: int = _FP16
) -> int:
    """Computes the memory of activations and of the loss at its peak, on each device.

    Args:
        config: Config of the model.
        num_tokens: Number of tokens of a micro-batch, padding included.
        recompute: Whether layers are computed again in the backward pass (gradient checkpointing): then each keeps its
            input, and one layer at a time all of its activations.
        chunk_len: Number of positions whose logits the loss holds at a time.
        train_head: Whether the output embeddings train; their gradient is accumulated in fp32.
        num_bytes: Bytes of a number in the linear layers.
    """
    layers, width, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    whole = layer_activations(config, num_bytes)
    kept = layers * width * num_bytes + whole if recompute else layers * whole
    # logits in the type of the linear layers and in fp32, and their gradient in the former
    logits = min(chunk_len, num_tokens) * vocabulary * (_FP32 + 2 * num_bytes)
    head = vocabulary * width * _FP32 if train_head else 0
    return num_tokens * (kept + 3 * width * num_bytes) + logits + head
