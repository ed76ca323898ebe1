"""Selects the trainable parameters of a model.

The transformer trains with low-rank adapters, in full, or is frozen; the two embedding matrices train in full, in the
rows of new pieces only, or are frozen. Trainable parameters are fp32 whatever the dtype of the others, since the small
steps of an optimizer are lost in 16 bits. (DeepSpeed keeps fp32 copies itself.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from glmja.modeling.lora_linear import LoraLinear
from glmja.weights.architecture import LayerNames
from glmja.weights.architectures import architecture_of

Tuning = Literal["lora", "full", "frozen"]
Embeddings = Literal["frozen", "full", "new_rows"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        rank: Rank of the adapters.
        alpha: Numerator of the scale `alpha / rank` of the update.
        dropout: Dropout probability of the adapters' inputs.
        targets: Names of the linear layers that get an adapter; all if None.
        rslora: Scale by `alpha / sqrt(rank)` instead (rsLoRA, https://arxiv.org/abs/2312.03732), for large ranks.
        dora: Train the magnitude of each row of a weight separately (DoRA, https://arxiv.org/abs/2402.09353): better
            at small ranks, slower.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: Sequence[str] | None = None
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: If a value is out of range.
        """
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"`lora`: rank ({self.rank}) and alpha ({self.alpha}) must be at least 1 and dropout ({self.dropout}) "
                "in [0, 1)"
            )

    def of(self, layers: LayerNames) -> Lora:
        """Returns the settings for a model, with its own names as targets.

        Args:
            layers: Names of the model's layers.

        Raises:
            ValueError: If a target is not a linear layer of the model.
        """
        targets, known = layers.linear if self.targets is None else self.targets, layers.linear
        if (unknown := sorted(set(targets) - set(known))) or not targets:
            raise ValueError(f"`lora`: targets ({', '.join(unknown) or 'none'}) must be among {', '.join(known)}")
        return replace(self, targets=targets)


def check_tuning(tuning: Tuning, embeddings: Embeddings, new_ids: Sequence[int]) -> None:
    """Checks that a parameter is trainable.

    Raises:
        ValueError: If none is.
    """
    if tuning == embeddings == "frozen":
        raise ValueError("`tuning` and `embeddings` are both frozen, so nothing would train; set one to lora or full")
    if embeddings == "new_rows" and not new_ids:
        raise ValueError("`embeddings` is new_rows, but the tokenizer has no new pieces; set it to full or frozen")


def unwrap_peft(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Returns the model inside a `PeftModel`, whose layers include the adapters; any other model is returned as is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def layers_of(model: PreTrainedModel) -> LayerNames:
    """Returns the names of a model's layers."""
    return architecture_of({"model_type": model.config.model_type}).layers


def apply_tuning(
    model: PreTrainedModel, tuning: Tuning, embeddings: Embeddings, lora: Lora, new_ids: Sequence[int]
) -> PreTrainedModel | PeftModel:
    """Adds adapters to a model and freezes all parameters that do not train.

    Args:
        model: The model; modified in place.
        tuning: How the transformer trains.
        embeddings: How the input and output embeddings train.
        lora: Settings of the adapters, if `tuning` is `lora`.
        new_ids: Ids of the rows that train under `new_rows`; all other rows stay bit-equal.

    Raises:
        ValueError: If nothing would train.
    """
    check_tuning(tuning, embeddings, new_ids)
    layers = layers_of(model)
    model.requires_grad_(False)
    result: PreTrainedModel | PeftModel = model
    if tuning == "lora" or embeddings == "new_rows":
        token_rows = {name: list(new_ids) for name in layers.embeddings}
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            target_modules=list(lora.of(layers).targets or ()) if tuning == "lora" else DUMMY_TARGET_MODULES,
            trainable_token_indices=token_rows if embeddings == "new_rows" else None,
            task_type="CAUSAL_LM",
        )
        config._register_custom_module({nn.Linear: LoraLinear})
        result = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if embeddings == "full" and name.endswith(tuple(f"{embedding}.weight" for embedding in layers.embeddings)):
            # not peft's `modules_to_save`, which keeps a frozen second copy (1.3 GB each way at 6B)
            parameter.requires_grad_(True)
        elif tuning == "full" and name.startswith(layers.transformer):
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    if embeddings == "full" and tuning != "full":
        # fp32 embeddings would make the hidden states of all layers fp32
        norm = model.get_submodule(layers.last_norm)  # read in each call: DeepSpeed and Lightning may cast it later
        inputs = model.get_input_embeddings()
        inputs.register_forward_hook(lambda module, args, output: output.to(norm.weight.dtype))
    return result
