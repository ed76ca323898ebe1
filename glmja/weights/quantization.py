"""Recognizes quantized weights, which can neither be extended nor trained in full nor merged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glmja.errors import ModelError
from glmja.weights.chatglm_layout import Config

_METHOD_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ", "quantization_config.json": "quantized"}
# last part of the names of tensors, and who writes them
_TENSORS = {
    "weight_scale": "ChatGLM's quantize", "qweight": "GPTQ or AWQ", "qzeros": "GPTQ or AWQ", "g_idx": "GPTQ",
    "SCB": "bitsandbytes", "absmax": "bitsandbytes", "quant_map": "bitsandbytes",
}  # fmt: skip


def check_not_quantized(folder: Path, config: Config) -> None:
    """Checks that neither the config nor a file beside it says that the weights are quantized.

    Args:
        folder: Folder of the model.
        config: The content of its `config.json`.

    Raises:
        ModelError: If one does.
    """
    settings = config.get("quantization_config")
    if bits := config.get("quantization_bit"):
        _refuse(folder, f"config.json has quantization_bit {str(bits)[:20]}")
    if isinstance(settings, dict) and settings:
        named = settings.get("quant_method") or next((key for key in settings if key.startswith("load_in_")), "")
        _refuse(folder, f"config.json has a quantization_config {str(named)[:20]}".rstrip())
    for name, method in _METHOD_FILES.items():
        if (folder / name).is_file():
            _refuse(folder, f"{name}, {method}")


def check_tensor_names(path: Path, names: Iterable[str]) -> None:
    """Checks that no tensor of a file belongs to quantized weights.

    Raises:
        ModelError: If one does; names it.
    """
    for name in names:
        if method := _TENSORS.get(name.rpartition(".")[2]):
            _refuse(path, f"{name}, as of {method}")


def _refuse(path: Path, fact: str) -> None:
    raise ModelError(f"{path}: the weights are quantized ({fact}); get the full model, in float16, bfloat16 or float32")
