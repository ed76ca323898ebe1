"""Model folders as models of `transformers`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from glmja.errors import ModelError
from glmja.families.recognition import tokenizer_file
from glmja.modeling.model_folder import ModelFolder
from glmja.weights.architecture import Architecture
from glmja.weights.architectures import architecture_of
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import dtype_named
from glmja.weights.tensors import all_finite


def choose_dtype(name: str | None, device: str) -> torch.dtype | None:
    """Returns the dtype to load weights in for inference.

    Args:
        name: Name of a dtype of torch, such as `bfloat16`; chosen by the device if None.
        device: The device that the model will run on.

    Returns:
        The named dtype. Without a name, float32 on a CPU, which computes 16-bit types slowly, and elsewhere None, which
        stands for the stored dtype.
    """
    if name:
        return dtype_named(name)
    return torch.float32 if torch.device(device).type == "cpu" else None


def load_model(
    folder: str | Path | ModelFolder, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """Loads weights in either layout, without remote code.

    Args:
        folder: An opened model folder, or the path of a folder of weights; if that holds a tokenizer, too, the two are
            checked against each other.
        dtype: The dtype of the parameters; as stored if None, whatever the config says. If stored tensors differ, the
            dtype that holds all of them exactly, since no layer computes with two.
        attn_implementation: `documents`, or an attention that `transformers` supports for the model: `eager`, `sdpa`, …

    Raises:
        OSError: If a file does not exist.
        ValueError: If the weights are damaged, of another architecture, or do not belong to the tokenizer.
    """
    return model_of(_checkpoint_of(folder), dtype, attn_implementation)


def _checkpoint_of(folder: str | Path | ModelFolder) -> Checkpoint:
    """The weights under the names of the running model; a folder may hold weights alone."""
    if not isinstance(folder, ModelFolder) and tokenizer_file(Path(folder)):
        folder = ModelFolder.open(folder)
    return folder.checkpoint if isinstance(folder, ModelFolder) else Checkpoint.open(folder).as_glm()


def model_of(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """Builds the model of weights under the names of the running model; arguments as `load_model`."""
    model, dtype = _empty(checkpoint, attn_implementation), dtype or checkpoint.dtype
    weights = {name: source.read_all().to(dtype) for name, source in checkpoint.tensors.items()}
    _check_finite(weights, checkpoint.folder)
    model.load_state_dict(weights, assign=True)
    if rotary := getattr(model.base_model, "rotary_emb", None):  # its frequencies are computed, not stored
        model.base_model.rotary_emb = type(rotary)(model.config)
    return model.eval()


def outline(folder: str | Path | ModelFolder, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Builds a model without values, on torch's meta device: shapes and dtypes only; arguments as `load_model`."""
    checkpoint = _checkpoint_of(folder)
    model, dtype = _empty(checkpoint), dtype or checkpoint.dtype
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _empty(checkpoint: Checkpoint, attn_implementation: str = "sdpa") -> PreTrainedModel:
    architecture = checkpoint.architecture
    settings = {key: checkpoint.config[key] for key in architecture.runtime_keys if key in checkpoint.config}
    attention = architecture.attention(attn_implementation)
    return empty_model(_imported(architecture.config_class)(**settings, attn_implementation=attention))


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """Returns a model without values, on torch's meta device."""
    with torch.device("meta"):
        return model_class_of(architecture_of({"model_type": config.model_type}))(config)


def model_class_of(architecture: Architecture) -> type[PreTrainedModel]:
    """Returns the class of an architecture's models; imports it, which may take seconds."""
    return _imported(architecture.model_class)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _check_finite(weights: dict[str, Tensor], folder: Path) -> None:
    """Raises ModelError if a weight is NaN or infinite."""
    for name, weight in weights.items():
        if not all_finite(weight):
            count = int((~torch.isfinite(weight)).sum())
            raise ModelError(f"{folder}: {name} holds {count} NaN or infinite numbers; get the weights again")
