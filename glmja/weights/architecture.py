"""Interface of a network: names and shapes of its tensors, and the settings of its two layouts.

A model folder is in the original layout of its publisher (`chatglm`) or in that of `transformers` (`glm`), in which the
model runs. To add an architecture, write one module with a class and add it to `glmja.weights.architectures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from glmja.weights.chatglm_layout import Config, Layout
from glmja.weights.tensors import TensorSource

Tensors = dict[str, TensorSource]


@dataclass(frozen=True)
class LayerNames:
    """Names of a model's layers, as the running model has them.

    Attributes:
        linear: Last parts of the names of the linear layers that can have adapters.
        embeddings: Last parts of the names of the input and the output embedding.
        transformer: Prefixes of all other parameters.
        last_norm: Name of the norm before the output embedding.
    """

    linear: tuple[str, ...]
    embeddings: tuple[str, str]
    transformer: tuple[str, ...]
    last_norm: str


class Architecture(ABC):
    """A network, in both layouts.

    Attributes:
        model_type: Name of the architecture in `config.json`, in the layout of transformers.
        config_class: Import path of the class of its settings.
        model_class: Import path of the class of its models.
        runtime_keys: The settings that the class of its settings takes.
        embedding: Name of the input embedding's tensor in the layout of transformers.
        head: Name of the output embedding's tensor there.
        layers: Names of the layers that can train.
        control_ids: Settings that hold the id of a control token, and the tokens.
        num_mlp_matrices: Number of matrices of the size width × inner width in each MLP.
        auto_tokenizer: Name of the class with which `AutoTokenizer` reads the tokenizer in the layout of transformers;
            None if it reads `tokenizer.json`.
        notes: What a user of a folder in a layout must know.
    """

    model_type: str
    config_class: str
    model_class: str
    runtime_keys: tuple[str, ...]
    embedding: str
    head: str
    layers: LayerNames
    control_ids: Mapping[str, str] = MappingProxyType({})
    num_mlp_matrices: int
    auto_tokenizer: str | None = None
    notes: Mapping[Layout, str] = MappingProxyType({})

    @property
    def both_embeddings(self) -> tuple[str, str]:
        """Names of the tensors of the input and the output embedding, in the layout of transformers."""
        return self.embedding, self.head

    @abstractmethod
    def layout_of(self, config: Config) -> Layout | None:
        """Returns the layout that a `config.json` describes; None if it describes another architecture."""

    @abstractmethod
    def runtime_config(self, config: Config) -> Config:
        """Converts a config in either layout to the layout of transformers.

        Raises:
            ModelError: If a setting is missing, or has a value that the running model cannot represent.
        """

    @abstractmethod
    def original_config(self, config: Config) -> Config:
        """Converts a config in the layout of transformers to the original layout; raises as `runtime_config`."""

    @abstractmethod
    def to_runtime(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns tensors of the original layout under the names of the running model; nothing is copied.

        Args:
            tensors: The tensors.
            config: The config in the layout of transformers.

        Raises:
            ModelError: If a name is unknown.
        """

    @abstractmethod
    def to_original(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns tensors of the running model under the original names; the inverse of `to_runtime`.

        Args:
            tensors: The tensors.
            config: The config in the original layout.
        """

    @abstractmethod
    def expected_shapes(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Returns names and shapes of all tensors of the running model, from its config."""

    @abstractmethod
    def is_computed(self, name: str) -> bool:
        """Returns whether a stored tensor follows from the config, so that it is not read."""

    def written_config(self, config: Config) -> Config:
        """Returns what `config.json` holds for a config in either layout."""
        return config

    def stays_fp32(self, name: str) -> bool:
        """Returns whether a tensor is stored in fp32 beside 16-bit ones."""
        return False

    def attention(self, name: str) -> str:
        """Returns what the running model calls an attention.

        Args:
            name: `documents`, or an attention of transformers.

        Raises:
            ModelError: If the model has no such attention.
        """
        return name
