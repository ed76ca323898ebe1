"""Adapters as peft computes them, in a model that has glmja's."""

from __future__ import annotations

from peft.tuners.lora.layer import Linear
from torch import nn

from glmja.modeling.lora_linear import LoraLinear

PEFT, NO_CAST, FUSED = "peft", "peft, inputs not cast", "one operation"


def use(model: nn.Module, contender: str) -> None:
    """Makes the adapters of a model work as a contender does."""
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            forward = LoraLinear.forward if contender == FUSED else Linear.forward
            layer.forward = forward.__get__(layer)  # type: ignore[method-assign]
            layer.cast_input_dtype_enabled = contender == PEFT
