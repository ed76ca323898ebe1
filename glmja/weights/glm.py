"""The architecture of ChatGLM2 and ChatGLM3, which is `transformers`' Glm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from glmja.weights.architecture import Architecture, LayerNames, Tensors
from glmja.weights.chatglm_layout import (
    EMBEDDING,
    HEAD,
    INV_FREQ,
    Config,
    Layout,
    RowRange,
    TensorPlan,
    check_glm_config,
    expected_shapes,
    plan_to_chatglm,
    plan_to_glm,
    to_chatglm_config,
    to_glm_config,
)
from glmja.weights.config_spellings import with_older_spellings, without_older_spellings
from glmja.weights.dtypes import common_dtype
from glmja.weights.tensors import JoinedTensor, MemoryTensor, Part, TensorSource, cast


class Glm(Architecture):
    """ChatGLM2, ChatGLM3, and the folders that glmja makes of them."""

    model_type = "glm"
    config_class = "transformers.GlmConfig"
    model_class = "transformers.GlmForCausalLM"
    runtime_keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "attention_bias", "rope_parameters",
        "hidden_act", "attention_dropout", "tie_word_embeddings", "pad_token_id", "eos_token_id",
    )  # fmt: skip
    embedding, head = EMBEDDING, HEAD
    layers = LayerNames(
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
        embeddings=("embed_tokens", "lm_head"),
        transformer=("model.layers.", "model.norm."),
        last_norm="model.norm",
    )
    num_mlp_matrices = 3  # gate, up and down

    def layout_of(self, config: Config) -> Layout | None:
        """Returns the layout of a config; any other `chatglm` than ChatGLM-6B counts as one of ChatGLM2/3."""
        model_type = config.get("model_type")
        return model_type if model_type in ("chatglm", "glm") else None

    def runtime_config(self, config: Config) -> Config:
        """Converts a config of ChatGLM2/3 or Glm to Glm's settings."""
        config = to_glm_config(config) if self.layout_of(config) == "chatglm" else without_older_spellings(config)
        check_glm_config(config)
        return config

    def original_config(self, config: Config) -> Config:
        """Converts Glm's settings to those of ChatGLM3."""
        return to_chatglm_config(config)

    def to_runtime(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns ChatGLM's tensors under the names of the running model."""
        return _apply_plan(plan_to_glm(tensors, config), tensors)

    def to_original(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns Glm's tensors under ChatGLM's names, and the rotary frequencies."""
        dtype = common_dtype(source.dtype for source in tensors.values())
        return _apply_plan(plan_to_chatglm(tensors), tensors) | {INV_FREQ: MemoryTensor(inv_freq(config, dtype))}

    def written_config(self, config: Config) -> Config:
        """Returns the config, with the spellings of older releases of transformers in their layout."""
        return with_older_spellings(config) if self.layout_of(config) == "glm" else config

    def expected_shapes(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Returns names and shapes of all tensors of a Glm model."""
        return expected_shapes(config)

    def is_computed(self, name: str) -> bool:
        """Returns whether a tensor holds the rotary frequencies."""
        return name == INV_FREQ


def inv_freq(config: Config, dtype: torch.dtype) -> Tensor:
    """Returns the rotary frequencies as ChatGLM's `RotaryEmbedding` computes and stores them."""
    width = config["kv_channels"] // 2
    exponents = torch.arange(0, width, 2).to(dtype) / width
    return 1.0 / ((10000 * config.get("rope_ratio", 1)) ** exponents)


def _apply_plan(plan: TensorPlan, tensors: Mapping[str, TensorSource]) -> Tensors:
    def part(rows: RowRange) -> Part:
        source = tensors[rows.name]
        return Part(source, rows.start, source.shape[0] if rows.stop is None else rows.stop)

    return {
        name: tensors[rows[0].name] if len(rows) == 1 and rows[0].stop is None else _joined([*map(part, rows)])
        for name, rows in plan.items()
    }


def _joined(parts: list[Part]) -> TensorSource:
    """Joins parts; if their dtypes differ, in one that holds all values exactly."""
    dtype = common_dtype(part.source.dtype for part in parts)
    return JoinedTensor([replace(part, source=cast(part.source, dtype)) for part in parts])


GLM = Glm()
