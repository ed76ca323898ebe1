"""The architecture of ChatGLM-6B of March 2023.

Its tensors have the same names in both layouts, so reading it drops the stored rotary frequencies and converts nothing.
As published, the layer norms are in fp32 and all else is in fp16.

Sources: `config.json`, `configuration_chatglm.py` and `modeling_chatglm.py` of
https://huggingface.co/THUDM/chatglm-6b, revision 8b7d3359.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import torch

from glmja.errors import ModelError
from glmja.weights.architecture import Architecture, LayerNames, Tensors
from glmja.weights.chatglm_layout import Config, Layout
from glmja.weights.config_kinds import check_kinds, check_same
from glmja.weights.tensors import MemoryTensor, TensorSource

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "inner_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "layernorm_epsilon": "layernorm_epsilon",
}
# the published ids, which the defaults of the original's config class are, too
_IDS = {
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "pad_token_id": 3,
}
_PREFIX = {"pre_seq_len": None, "prefix_projection": False}
_REQUIRED_IF_PRESENT = {"position_encoding_2d": True, "tie_word_embeddings": False}
_ROWS_WITH_IMAGES = 150_528  # before April 2023, the first 20,000 rows were those of images

_INV_FREQ = re.compile(r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq")
_NORM = re.compile(r"transformer\.(layers\.\d+\.(input|post_attention)_layernorm|final_layernorm)\.(weight|bias)")


class ChatGLM1(Architecture):
    """ChatGLM-6B, and the folders that glmja makes of it."""

    model_type = "glmja_chatglm1"
    config_class = "glmja.modeling.chatglm1.ChatGLM1Config"
    model_class = "glmja.modeling.chatglm1.ChatGLM1ForCausalLM"
    runtime_keys = (*_SIZES.values(), *_IDS, *_PREFIX)
    embedding, head = "transformer.word_embeddings.weight", "lm_head.weight"
    layers = LayerNames(
        linear=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        embeddings=("word_embeddings", "lm_head"),
        transformer=("transformer.layers.", "transformer.final_layernorm."),
        last_norm="transformer.final_layernorm",
    )
    control_ids = MappingProxyType({"mask_token_id": "[MASK]", "gmask_token_id": "[gMASK]", "bos_token_id": "<sop>"})
    num_mlp_matrices = 2
    auto_tokenizer = "ChatGLM1AutoTokenizer"
    notes = MappingProxyType(
        {
            "glm": "AutoModelForCausalLM and AutoTokenizer load this folder after import glmja",
            "chatglm": "the original code runs with transformers 4.27 to 4.33",
        }
    )

    def layout_of(self, config: Config) -> Layout | None:
        """Returns the layout of a config; its original one shares its `model_type` with ChatGLM2/3."""
        if config.get("model_type") == self.model_type:
            return "glm"
        own = "inner_hidden_size" in config or "position_encoding_2d" in config
        return "chatglm" if config.get("model_type") == "chatglm" and own else None

    def runtime_config(self, config: Config) -> Config:
        """Converts a config in either layout to the settings of `glmja.modeling.chatglm1_config`.

        Raises:
            ModelError: If a setting is missing or out of range, or the model is older than April 2023.
        """
        names = _SIZES if self.layout_of(config) == "chatglm" else {name: name for name in _SIZES.values()}
        if missing := [name for name in names if name not in config]:
            raise ModelError(f"the config of ChatGLM-6B lacks {', '.join(missing)}")
        if config["vocab_size"] == _ROWS_WITH_IMAGES:
            raise ModelError(
                f"the config has {_ROWS_WITH_IMAGES:,} rows: a revision of ChatGLM-6B before April 2023, whose first "
                "20,000 rows are those of images; get the current revision"
            )
        check_kinds(config)
        check_same(config, _REQUIRED_IF_PRESENT, absent=_REQUIRED_IF_PRESENT)
        runtime: Config = {"model_type": self.model_type, "architectures": ["ChatGLM1ForCausalLM"]}
        runtime |= {new: config[name] for name, new in names.items()}
        runtime |= {name: config.get(name, default) for name, default in (_IDS | _PREFIX).items()}
        width, heads = runtime["hidden_size"], runtime["num_attention_heads"]
        if width % (4 * heads):
            raise ModelError(
                f"the config has {heads} attention heads in a width of {width}, which must give each a multiple of 4"
            )
        return runtime

    def original_config(self, config: Config) -> Config:
        """Converts a config to the settings of the original code."""
        eos = config["eos_token_id"]
        code = "modeling_chatglm.ChatGLMForConditionalGeneration"
        prefix = {name: config[name] for name in _PREFIX if config.get("pre_seq_len")}
        return {
            "model_type": "chatglm",
            "architectures": ["ChatGLMModel"],
            "auto_map": {
                "AutoConfig": "configuration_chatglm.ChatGLMConfig",
                **{f"AutoModel{suffix}": code for suffix in ("", "ForSeq2SeqLM")},
            },
            **{original: config[name] for original, name in _SIZES.items()},
            **{name: config[name] for name in _IDS},
            "eos_token_id": eos[0] if isinstance(eos, list) else eos,
            "position_encoding_2d": True,
            "use_cache": True,
            # absent, it is true for transformers, which would give the original code one matrix for both embeddings
            "tie_word_embeddings": False,
            **prefix,
        }

    def to_runtime(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns the tensors without the rotary frequencies."""
        return {name: source for name, source in tensors.items() if not self.is_computed(name)}

    def to_original(self, tensors: Mapping[str, TensorSource], config: Config) -> Tensors:
        """Returns the tensors and the rotary frequencies of each layer, in fp16 as published."""
        width = config["hidden_size"] // config["num_attention_heads"] // 2
        inv_freq = (1.0 / 10000 ** (torch.arange(0, width, 2).float() / width)).half()
        names = (f"transformer.layers.{i}.attention.rotary_emb.inv_freq" for i in range(config["num_layers"]))
        return {**tensors} | {name: MemoryTensor(inv_freq) for name in names}

    def expected_shapes(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Returns names and shapes of all tensors of the model."""
        width, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        shapes: dict[str, tuple[int, ...]] = {self.embedding: (rows, width), self.head: (rows, width)}
        linear = {
            "attention.query_key_value": (3 * width, width),
            "attention.dense": (width, width),
            "mlp.dense_h_to_4h": (inner, width),
            "mlp.dense_4h_to_h": (width, inner),
        }
        for layer in range(config["num_hidden_layers"]):
            prefix = f"transformer.layers.{layer}."
            for name, shape in linear.items():
                shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
            for name in ("input_layernorm", "post_attention_layernorm"):
                shapes |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
        last = {f"{self.layers.last_norm}.{kind}": (width,) for kind in ("weight", "bias")}
        return shapes | last | _prefix_shapes(config)

    def is_computed(self, name: str) -> bool:
        """Returns whether a tensor holds rotary frequencies, which each layer stores."""
        return _INV_FREQ.fullmatch(name) is not None

    def stays_fp32(self, name: str) -> bool:
        """Returns whether a tensor belongs to a layer norm."""
        return _NORM.fullmatch(name) is not None

    def attention(self, name: str) -> str:
        """Returns `sdpa`, the only attention of the model, which isolates documents by their positions.

        Raises:
            ModelError: If another attention is asked for.
        """
        if name not in ("documents", "sdpa"):
            raise ModelError(f"ChatGLM-6B has no attention {name}; set `attn_implementation` to documents")
        return "sdpa"


def _prefix_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the prefix of P-tuning v2; none without one."""
    if not (length := config.get("pre_seq_len")):
        return {}
    width, numbers = config["hidden_size"], 2 * config["num_hidden_layers"] * config["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (length, numbers)}
    if config.get("prefix_projection"):
        shapes = {
            "embedding.weight": (length, width), "trans.0.weight": (width, width), "trans.0.bias": (width,),
            "trans.2.weight": (numbers, width), "trans.2.bias": (numbers,),
        }  # fmt: skip
    return {f"transformer.prefix_encoder.{name}": shape for name, shape in shapes.items()}


CHATGLM1 = ChatGLM1()
