"""Which parameters of a model train.

The transformer trains by low-rank adapters, in full, or not at all; the two embedding matrices in full, only in the
rows of appended pieces, or not at all. Parameters that train are fp32 whatever the others are: 16 bits lose the small
steps of an optimizer. (DeepSpeed keeps fp32 copies of its own.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import GlmForCausalLM

Tuning = Literal["lora", "full", "frozen"]
Embeddings = Literal["frozen", "full", "new_rows"]

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")

_EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        rank: Of the adapters.
        alpha: Their update is scaled by `alpha / rank`.
        dropout: Probability of dropping an input of an adapter.
        targets: Names of the linear layers that have one.
        rslora: Scale by `alpha / sqrt(rank)` instead (https://arxiv.org/abs/2312.03732): for large ranks.
        dora: Learn the magnitude of each weight column apart (https://arxiv.org/abs/2402.09353): better at small
            ranks, slower.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: Sequence[str] = LINEAR_LAYERS
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora: rank ({self.rank}) and alpha ({self.alpha}) must be at least 1 and dropout ({self.dropout}) "
                "in [0, 1)"
            )
        unknown = sorted(set(self.targets) - set(LINEAR_LAYERS))
        if unknown or not self.targets:
            raise ValueError(f"lora: targets ({', '.join(unknown) or 'none'}) must be of {', '.join(LINEAR_LAYERS)}")


def check_tuning(tuning: Tuning, embeddings: Embeddings, new_ids: Sequence[int]) -> None:
    """Checks that there is something to train.

    Raises:
        ValueError: If not.
    """
    if tuning == embeddings == "frozen":
        raise ValueError("tuning and embeddings are both frozen: nothing would train")
    if embeddings == "new_rows" and not new_ids:
        raise ValueError("embeddings: new_rows, but the tokenizer has no appended pieces; take full or frozen")


def unwrap_peft(model: GlmForCausalLM | PeftModel) -> GlmForCausalLM:
    """The model itself, without peft's shell; its layers hold the adapters, too."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def apply_tuning(
    model: GlmForCausalLM, tuning: Tuning, embeddings: Embeddings, lora: Lora, new_ids: Sequence[int]
) -> GlmForCausalLM | PeftModel:
    """Freezes a model but for what is to train.

    Args:
        model: The model; changed in place.
        tuning: How the transformer trains.
        embeddings: How the input and output embeddings train.
        lora: The adapters, if any.
        new_ids: Rows that train under `new_rows`; all others stay as they are, exactly.

    Raises:
        ValueError: If nothing would train.
    """
    check_tuning(tuning, embeddings, new_ids)
    model.requires_grad_(False)
    result: GlmForCausalLM | PeftModel = model
    if tuning == "lora" or embeddings == "new_rows":
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            target_modules=list(lora.targets) if tuning == "lora" else DUMMY_TARGET_MODULES,
            trainable_token_indices={n: list(new_ids) for n in _EMBEDDINGS} if embeddings == "new_rows" else None,
            task_type="CAUSAL_LM",
        )
        result = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if embeddings == "full" and name.endswith(tuple(f"{n}.weight" for n in _EMBEDDINGS)):
            # not peft's `modules_to_save`, which keeps a frozen second copy (1.3 GB each way at 6B)
            parameter.requires_grad_(True)
        elif tuning == "full" and name.startswith(("model.layers.", "model.norm.")):
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    if embeddings == "full" and tuning != "full":
        # fp32 embeddings would make all that is passed from layer to layer fp32
        norm = model.model.norm  # asked at each call: DeepSpeed and Lightning may cast the model later
        model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: output.to(norm.weight.dtype))
    return result
