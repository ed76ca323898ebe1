"""Keeps languages of the base model while another one is trained.

On rows of the languages to keep, the model is trained towards the base model's own distribution of the next token,
KL(base ‖ model), in place of cross entropy (knowledge distillation: Hinton et al. 2015,
https://arxiv.org/abs/1503.02531; against forgetting: Li and Hoiem 2016, https://arxiv.org/abs/1606.09282). The base
needs no second copy of the transformer: it is the same weights without their adapters, and with the embedding rows that
the run started with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from glmja.modeling.adapters import Embeddings, Tuning
from glmja.modeling.loss import TeacherStates


@dataclass(frozen=True)
class Retention:
    """Training of some languages towards the base model, so that they do not drift.

    Attributes:
        languages: Languages to keep, as `lang` of the sources; none trains all rows by cross entropy.
        weight: Factor of KL(base ‖ model) on their rows, which takes the place of cross entropy; 0 switches it off.
    """

    languages: Sequence[str] = ()
    weight: float = 10.0

    def __post_init__(self) -> None:
        """Checks the range of the weight.

        Raises:
            ValueError: If it is negative or infinite.
        """
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"`retention`: weight ({self.weight}) must be at least 0, and finite")

    @property
    def kept(self) -> Sequence[str]:
        """Languages whose rows have a teacher."""
        return self.languages if self.weight else ()

    def check_tuning(self, tuning: Tuning) -> None:
        """Checks that the model contains its base.

        Raises:
            ValueError: If the transformer trains in full.
        """
        if self.kept and tuning == "full":
            raise ValueError(
                "`retention` takes the base model from the same weights without adapters, which `tuning` full "
                "overwrites; set `tuning` to lora, or leave out `retention`"
            )


class BaseRows(nn.Module):
    """The embedding rows that a run starts with.

    They are copied if the embeddings train in full. The copies are frozen parameters, not buffers: DDP would send
    buffers to all ranks in each step. No checkpoint holds them, since they are read again with the model.
    """

    def __init__(self, glm: PreTrainedModel, embeddings: Embeddings, num_known: int) -> None:
        """Copies rows of a model that has not been trained or cast yet.

        Args:
            glm: The model.
            embeddings: How the embeddings train.
            num_known: Number of ids that the base model knows, the first ones of the vocabulary.
        """
        super().__init__()
        self.num_known = num_known
        self.input_VD: nn.Parameter | None = None
        self.head_OD: nn.Parameter | None = None
        if embeddings == "full":
            # all rows of the input: a text to keep may quote new pieces
            self.input_VD = nn.Parameter(glm.get_input_embeddings().weight.detach().clone(), requires_grad=False)
            self.head_OD = nn.Parameter(
                glm.get_output_embeddings().weight[:num_known].detach().clone(), requires_grad=False
            )

    def of(self, glm: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Returns the rows of the input embedding, (V, D), and of the output embedding, (O, D)."""
        if self.input_VD is not None and self.head_OD is not None:
            return self.input_VD, self.head_OD
        return _frozen(glm.get_input_embeddings()), _frozen(glm.get_output_embeddings())[: self.num_known]


def teacher_states(glm: PreTrainedModel, rows: BaseRows, inputs: Mapping[str, Tensor | int]) -> TeacherStates:
    """Computes the states that give the base model's distributions of the next token, without gradients.

    Adapters are on again afterwards, so that a backward pass that recomputes activations finds them.

    Args:
        glm: The model that trains, with its adapters.
        rows: The embedding rows that it started with.
        inputs: Arguments of its forward pass, as `glmja.modeling.attention.model_inputs`.

    Returns:
        The base's last hidden states, (B, T, D), and the rows of its output embedding, (O, D).
    """
    input_VD, head_OD = rows.of(glm)

    def embed(module: nn.Module, args: tuple[Tensor], embedded: Tensor) -> Tensor:
        return F.embedding(args[0], input_VD).to(embedded.dtype)

    # not every model takes embedded inputs
    hook = glm.get_input_embeddings().register_forward_hook(embed)
    try:
        with torch.no_grad(), _without_adapters(glm):
            hidden = glm.base_model(**inputs).last_hidden_state
    finally:
        hook.remove()
    return TeacherStates(hidden, head_OD)


@contextmanager
def _without_adapters(glm: PreTrainedModel) -> Iterator[None]:
    """Switches adapters and dropout off.

    peft's own context manager also switches `requires_grad` of the adapters, on whose hooks DDP and DeepSpeed rely.
    """
    layers = [module for module in glm.modules() if isinstance(module, BaseTunerLayer)]
    was_training = glm.training
    glm.eval()
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        glm.train(was_training)


def _frozen(module: nn.Module) -> Tensor:
    """Returns the stored weight of an embedding that is frozen, or of which peft trains some rows beside it."""
    if isinstance(module, TrainableTokensWrapper):
        module = module.token_adapter.base_layer
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
