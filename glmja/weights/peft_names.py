"""The names that peft gives to the parameters of adapters; nothing else spells them.

Source: `peft/tuners/lora/layer.py` and `peft/tuners/trainable_tokens/layer.py` of peft 0.21.
"""

from __future__ import annotations

import re

_PREFIX = "base_model.model."  # what `get_peft_model` puts before each name of the model
_LORA = re.compile(r"(.+)\.lora_(A|B|magnitude_vector)\.default\.weight")
_TOKEN_ROWS = re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta\.default")


def with_prefix(name: str) -> str:
    """Returns the name that a model's parameter has in its `PeftModel`."""
    return f"{_PREFIX}{name}"


def without_prefix(name: str) -> str:
    """Returns the name of a parameter without the prefix of a `PeftModel`; the inverse of `with_prefix`."""
    return name.removeprefix(_PREFIX)


def is_lora(name: str) -> bool:
    """Returns whether a parameter belongs to a low-rank adapter."""
    return ".lora_" in name


def lora_part(name: str) -> tuple[str, str] | None:
    """Returns the layer of an adapter's parameter and its part: `A`, `B` or `magnitude_vector`; None for others."""
    found = _LORA.fullmatch(name)
    return (found[1], found[2]) if found else None


def token_rows(name: str) -> str | None:
    """Returns the embedding of which a parameter holds the trainable rows; None for other parameters."""
    found = _TOKEN_ROWS.fullmatch(name)
    return found[1] if found else None
