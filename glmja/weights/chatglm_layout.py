"""Maps names, shapes and settings of ChatGLM2/3 to those of `transformers`' Glm, and back.

The two are one architecture with different names: every tensor of one is a range of rows of a tensor of the other, so a
conversion copies bytes and computes nothing. ChatGLM's fused query-key-value matrix holds the rows of H query heads,
then those of G key groups, then those of G value groups.

Sources: `modeling_chatglm.py` of ChatGLM3-6B, `transformers/models/glm/modeling_glm.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from glmja.errors import ModelError
from glmja.weights.config_kinds import check_divisible, check_kinds, check_same

Layout = Literal["chatglm", "glm"]
Config = dict[str, Any]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

# ChatGLM stores the rotary frequencies although they follow from the config.
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"

_ROPE_BASE = 10000.0

# ChatGLM to Glm, for tensors that are renamed only
_TOP_NAMES = {
    "transformer.embedding.word_embeddings.weight": EMBEDDING,
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": HEAD,
}
_LAYER_NAMES = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_FUSED = "self_attention.query_key_value"
_CHATGLM_LAYER = re.compile(r"transformer\.encoder\.layers\.(\d+)\.(.+)")
_GLM_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

_SIZES = {
    "padded_vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "kv_channels": "head_dim",
    "multi_query_group_num": "num_key_value_heads",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "rms_norm_eps",
    "add_qkv_bias": "attention_bias",
}

# Settings that the conversion relies on; ChatGLM2 and ChatGLM3 have no other values.
_REQUIRED: dict[str, bool | None] = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "multi_query_attention": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "tie_word_embeddings": False,
}
_REQUIRED_IF_PRESENT: dict[str, bool | None] = {"pre_seq_len": None, "original_rope": True}


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` of a tensor; all rows from `start` if `stop` is None."""

    name: str
    start: int = 0
    stop: int | None = None


TensorPlan = dict[str, list[RowRange]]  # for each tensor to write, the rows that it is joined from


def check_glm_config(config: Config) -> None:
    """Checks that a Glm config has every setting that shapes and generation depend on.

    Raises:
        ModelError: If not.
    """
    missing = [
        key for key in (*_SIZES.values(), "rope_parameters", "eos_token_id", "pad_token_id") if key not in config
    ]
    if missing:
        raise ModelError(f"the Glm config lacks {', '.join(missing)}")
    check_kinds(config)
    check_divisible(config)


def to_glm_config(config: Config) -> Config:
    """Converts a ChatGLM2/3 config to Glm's settings.

    Raises:
        ModelError: If a setting is missing, or has a value that Glm cannot represent.
    """
    missing = [key for key in (*_SIZES, *_REQUIRED) if key not in config]
    if missing:
        raise ModelError(f"the ChatGLM config lacks {', '.join(missing)} (is it ChatGLM2 or ChatGLM3?)")
    check_kinds(config)
    check_same(config, _REQUIRED | _REQUIRED_IF_PRESENT, absent=_REQUIRED_IF_PRESENT)
    return {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        **{glm: config[chatglm] for chatglm, glm in _SIZES.items()},
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": _ROPE_BASE * config.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
        "hidden_act": "silu",
        "attention_dropout": config.get("attention_dropout", 0.0),
        "tie_word_embeddings": False,
        "pad_token_id": config.get("pad_token_id", 0),
        "eos_token_id": config.get("eos_token_id", 2),
    }


def to_chatglm_config(config: Config) -> Config:
    """Converts a Glm config that came from ChatGLM to ChatGLM3's settings; the inverse of `to_glm_config`.

    Raises:
        ModelError: If ChatGLM3 cannot represent the model.
    """
    rope = config.get("rope_parameters", {})
    if rope.get("partial_rotary_factor") != 0.5 or rope.get("rope_type") != "default":
        raise ModelError(f"rope_parameters {rope} have no counterpart in ChatGLM3")
    ratio = rope["rope_theta"] / _ROPE_BASE
    code = "modeling_chatglm.ChatGLMForConditionalGeneration"
    eos = config["eos_token_id"]
    return {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            **{f"AutoModel{suffix}": code for suffix in ("", "ForCausalLM", "ForSeq2SeqLM")},
        },
        **{chatglm: config[glm] for chatglm, glm in _SIZES.items()},
        "vocab_size": config["vocab_size"],  # not read by ChatGLM's code, but by llama.cpp's converter
        **_REQUIRED,
        "apply_query_key_layer_scaling": True,
        "attention_dropout": config.get("attention_dropout", 0.0),
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "original_rope": True,
        **({"rope_ratio": ratio} if ratio != 1 else {}),
        "use_cache": True,
        "eos_token_id": eos[0] if isinstance(eos, list) else eos,
        "pad_token_id": config.get("pad_token_id", 0),
    }


def _fused_rows(config: Config) -> dict[str, tuple[int, int]]:
    """Returns the rows of q, k and v in the fused matrix, from a Glm config."""
    queries = config["num_attention_heads"] * config["head_dim"]
    groups = config["num_key_value_heads"] * config["head_dim"]
    return {"q": (0, queries), "k": (queries, queries + groups), "v": (queries + groups, queries + 2 * groups)}


def plan_to_glm(names: Iterable[str], config: Config) -> TensorPlan:
    """Plans from which rows each Glm tensor is read.

    Args:
        names: Names of the tensors of a ChatGLM checkpoint.
        config: The Glm config.

    Raises:
        ModelError: If a name is unknown.
    """
    plan: TensorPlan = {}
    unknown = []
    for name in names:
        layer = _CHATGLM_LAYER.fullmatch(name)
        if name in _TOP_NAMES:
            plan[_TOP_NAMES[name]] = [RowRange(name)]
        elif layer and layer[2] in _LAYER_NAMES:
            plan[f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}"] = [RowRange(name)]
        elif layer and layer[2] in (f"{_FUSED}.weight", f"{_FUSED}.bias"):
            kind = layer[2].rpartition(".")[2]
            for part, (start, stop) in _fused_rows(config).items():
                plan[f"model.layers.{layer[1]}.self_attn.{part}_proj.{kind}"] = [RowRange(name, start, stop)]
        elif name != INV_FREQ:
            unknown.append(name)
    if unknown:
        raise ModelError(f"{len(unknown)} tensors are unknown to ChatGLM2/3: {', '.join(sorted(unknown)[:5])}")
    return plan


def plan_to_chatglm(names: Iterable[str]) -> TensorPlan:
    """Plans from which rows each ChatGLM tensor but the rotary frequencies is read; the inverse of `plan_to_glm`.

    Args:
        names: Names of the tensors of a Glm checkpoint.

    Raises:
        ModelError: If a name is unknown.
    """
    top = {glm: chatglm for chatglm, glm in _TOP_NAMES.items()}
    inner = {glm: chatglm for chatglm, glm in _LAYER_NAMES.items()}
    plan: TensorPlan = {}
    unknown = []
    for name in names:
        layer = _GLM_LAYER.fullmatch(name)
        fused = layer and re.fullmatch(r"self_attn\.[qkv]_proj\.(weight|bias)", layer[2])
        if name in top:
            plan[top[name]] = [RowRange(name)]
        elif layer and layer[2] in inner:
            plan[f"transformer.encoder.layers.{layer[1]}.{inner[layer[2]]}"] = [RowRange(name)]
        elif layer and fused:
            parts = [f"model.layers.{layer[1]}.self_attn.{part}_proj.{fused[1]}" for part in "qkv"]
            plan[f"transformer.encoder.layers.{layer[1]}.{_FUSED}.{fused[1]}"] = [RowRange(part) for part in parts]
        else:
            unknown.append(name)
    if unknown:
        raise ModelError(f"{len(unknown)} tensors are unknown to Glm: {', '.join(sorted(unknown)[:5])}")
    return plan


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of all tensors of a Glm model."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        for part, (start, stop) in _fused_rows(config).items():
            shapes[f"{prefix}self_attn.{part}_proj.weight"] = (stop - start, width)
            if config["attention_bias"]:
                shapes[f"{prefix}self_attn.{part}_proj.bias"] = (stop - start,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (width, config["num_attention_heads"] * config["head_dim"])
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
        shapes[f"{prefix}mlp.gate_up_proj.weight"] = (2 * inner, width)
        shapes[f"{prefix}mlp.down_proj.weight"] = (width, inner)
    return shapes | {"model.norm.weight": (width,), HEAD: (config["vocab_size"], width)}
