"""Recognizes the architecture of a model by its settings."""

from __future__ import annotations

from glmja.errors import ModelError
from glmja.weights.architecture import Architecture
from glmja.weights.chatglm1 import CHATGLM1
from glmja.weights.chatglm_layout import Config, Layout
from glmja.weights.glm import GLM

ARCHITECTURES: tuple[Architecture, ...] = (CHATGLM1, GLM)  # Glm last: it takes any `chatglm`


def architecture_of(config: Config) -> Architecture:
    """Returns the architecture that a `config.json` describes, in either layout.

    Raises:
        ModelError: If it is unknown.
    """
    for architecture in ARCHITECTURES:
        if architecture.layout_of(config) is not None:
            return architecture
    known = " or ".join(repr(name) for name in ("chatglm", *(each.model_type for each in ARCHITECTURES)))
    raise ModelError(f"unknown architecture: model_type is {config.get('model_type')!r}; it must be {known}")


def layout_of(config: Config) -> Layout:
    """Returns the layout that a `config.json` describes; raises as `architecture_of`."""
    layout = architecture_of(config).layout_of(config)
    assert layout is not None
    return layout
