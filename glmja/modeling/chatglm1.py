"""ChatGLM-6B of March 2023 as a model of `transformers`, under the original names of its parameters.

It differs from ChatGLM2 and ChatGLM3 in most respects: a residual of the normalized input (DeepNorm), rotary embeddings
of two positions, biases, a GELU, and a prefix that is read in both directions. A sequence is a context, which ends with
`[gMASK]`, and from the first `<sop>` on an answer. Importing this module registers the model with `AutoConfig` and
`AutoModelForCausalLM` as `glmja_chatglm1`, which `glmja.modeling.registration` does.

Sources: `modeling_chatglm.py` of https://huggingface.co/THUDM/chatglm-6b, revision 8b7d3359; GLM
(https://arxiv.org/abs/2103.10360), DeepNorm (https://arxiv.org/abs/2203.00555).

Dimensions: B rows, T tokens, S keys (prefix and cached ones included), D width, H heads, K head width, V vocabulary
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from glmja.modeling.chatglm1_config import CACHE, ChatGLM1Config
from glmja.modeling.prefix_positions import positions_of, visible_keys, visible_keys_cached


def frequencies(width: int) -> list[float]:
    """Returns the rotary frequencies of one position, for half of a head of `width` numbers.

    They are rounded to fp16, in a model of any dtype, as the original does: exact ones change the logits.
    """
    exact = 1.0 / 10000 ** (torch.arange(0, width // 2, 2, device="cpu").float() / (width // 2))
    return exact.half().float().tolist()


def rotation(position_ids: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines, (B, 1, T, K) each: of the first position in half of a head, of the second in the rest.

    Args:
        position_ids: (B, 2, T).
        width: Width of a head.
        dtype: Dtype of the result; the angles are computed in fp32.
    """
    per_second = torch.tensor(frequencies(width), device=position_ids.device)
    angles = position_ids[..., None].float() * per_second  # (B, 2, T, K / 4)
    angles_B1TK = angles.repeat(1, 1, 1, 2).transpose(1, 2).flatten(2)[:, None]
    return angles_B1TK.cos().to(dtype), angles_B1TK.sin().to(dtype)


def rotate(states_BHTK: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
    """Rotates the pairs (i, i + K / 4) in each half of a head; the result has the dtype of the states."""
    first, second = states_BHTK.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned_BHTK = torch.stack([-second, first], -2).flatten(-3)
    return (states_BHTK * cos_B1TK + turned_BHTK * sin_B1TK).to(states_BHTK.dtype)


def split_heads(fused_BTF: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values, (B, H, T, K); the fused rows hold all three of a head, head after head."""
    queries, keys, values = fused_BTF.unflatten(-1, (num_heads, -1)).transpose(1, 2).chunk(3, -1)
    return queries, keys, values


class _Attention(nn.Module):
    def __init__(self, config: ChatGLM1Config, index: int) -> None:
        super().__init__()
        self.index, self.num_heads = index, config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_BTD: Tensor,
        visible: Tensor | None,
        angles: tuple[Tensor, Tensor],
        prefix: Tensor | None,
        cache: DynamicCache | None,
    ) -> Tensor:
        queries, keys, values = split_heads(self.query_key_value(hidden_BTD), self.num_heads)
        queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        if prefix is not None:  # its keys are not rotated
            earlier = prefix[2 * self.index : 2 * self.index + 2, None].expand(-1, len(keys), -1, -1, -1)
            keys, values = torch.cat([earlier[0], keys], 2), torch.cat([earlier[1], values], 2)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        # the original divides queries by the number of the layer and multiplies scores by it, against overflow in
        # fp16; the kernels of torch compute scores in fp32
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        return self.dense(attended.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_BTD), approximate="tanh"))


class ChatGLM1Block(GradientCheckpointingLayer):
    """A layer of the transformer."""

    def __init__(self, config: ChatGLM1Config, index: int) -> None:
        """Creates the layer at an index."""
        super().__init__()
        self.alpha = math.sqrt(2 * config.num_hidden_layers)  # of DeepNorm
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = _Attention(config, index)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = _MLP(config)

    def forward(self, hidden_BTD: Tensor, *context: Any) -> Tensor:
        """Returns the hidden states after the layer; `context` is that of the attention."""
        normed_BTD = self.input_layernorm(hidden_BTD)
        hidden_BTD = self.alpha * normed_BTD + self.attention(normed_BTD, *context)
        normed_BTD = self.post_attention_layernorm(hidden_BTD)
        return self.alpha * normed_BTD + self.mlp(normed_BTD)


class _PrefixEncoder(nn.Module):
    """The prefix of P-tuning v2 (https://arxiv.org/abs/2110.07602): keys and values that every token attends to."""

    def __init__(self, config: ChatGLM1Config) -> None:
        super().__init__()
        width = 2 * config.num_hidden_layers * config.hidden_size
        self.shape = (2 * config.num_hidden_layers, config.num_attention_heads, -1)
        self.embedding = nn.Embedding(
            config.pre_seq_len or 0, config.hidden_size if config.prefix_projection else width
        )
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, width)
            )

    def forward(self) -> Tensor:
        """Returns keys and values of each layer in turn, (2 · layers, H, prefix, K)."""
        table = self.embedding.weight
        return (self.trans(table) if hasattr(self, "trans") else table).unflatten(-1, self.shape).permute(1, 2, 0, 3)


class _ChatGLM1PreTrained(PreTrainedModel):
    config_class = ChatGLM1Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("ChatGLM1Block",)
    _input_embed_layer = "word_embeddings"
    _keys_to_ignore_on_load_unexpected = (r"\.rotary_emb\.inv_freq$",)


class ChatGLM1Model(_ChatGLM1PreTrained):
    """The layers, without the output embedding."""

    def __init__(self, config: ChatGLM1Config) -> None:
        """Creates the layers.

        Raises:
            ValueError: If the embeddings would be tied, or another attention than SDPA is asked for.
        """
        super().__init__(config)
        if config.tie_word_embeddings:
            raise ValueError("tie_word_embeddings must be false: ChatGLM-6B stores both embeddings")
        if config._attn_implementation not in (None, "sdpa"):
            raise ValueError(f"ChatGLM-6B has the attention sdpa, not {config._attn_implementation}")
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([ChatGLM1Block(config, i) for i in range(config.num_hidden_layers)])
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        if config.pre_seq_len:
            self.prefix_encoder = _PrefixEncoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Computes the hidden states.

        Args:
            input_ids: (B, T); with a cache that holds keys, the ids after them.
            attention_mask: (B, cached + T), 0 at padding; none if None.
            position_ids: (B, 2, T), see `positions_of`; derived from the ids if None. Several documents in a row are
                isolated by them.
            use_cache: Whether to return the keys and values.
            output_hidden_states: Whether to return the states before each layer and after the last norm.
            kwargs: The cache, as `cache` or `past_key_values`.

        Raises:
            ValueError: If a row has no `<sop>` or mask token to derive positions from, or the cache is of another kind.
        """
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if cache is not None and not isinstance(cache, DynamicCache):
            raise ValueError(f"ChatGLM-6B needs a DynamicCache, not a {type(cache).__name__}")
        num_cached = cache.get_seq_length() if cache is not None else 0
        prefix_len = self.config.pre_seq_len or 0
        if position_ids is None:
            if num_cached:
                raise ValueError("give `position_ids`: positions after cached ids do not follow from the ids")
            position_ids = positions_of(input_ids, attention_mask, self.config)
        if num_cached:
            visible = visible_keys_cached(input_ids.shape[1], num_cached - prefix_len, attention_mask)
        else:
            visible = visible_keys(position_ids, attention_mask)
        if visible is not None and prefix_len:
            visible = F.pad(visible, (prefix_len, 0), value=True)
        hidden_BTD = self.word_embeddings(input_ids)
        prefix = self.prefix_encoder().to(hidden_BTD.dtype) if prefix_len and not num_cached else None
        angles = rotation(position_ids, self.config.hidden_size // self.config.num_attention_heads, hidden_BTD.dtype)
        states = [hidden_BTD]
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, visible, angles, prefix, cache)
            states.append(hidden_BTD)
        states[-1] = hidden_BTD = self.final_layernorm(hidden_BTD)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_BTD,
            hidden_states=tuple(states) if output_hidden_states else None,
            **{CACHE: cache},
        )


class ChatGLM1ForCausalLM(_ChatGLM1PreTrained, GenerationMixin):
    """ChatGLM-6B with its output embedding."""

    def __init__(self, config: ChatGLM1Config) -> None:
        """Creates the model; raises as `ChatGLM1Model`."""
        super().__init__(config)
        self.transformer = ChatGLM1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, logits_to_keep: int = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Computes logits, and the loss if there are labels.

        Args:
            input_ids: (B, T).
            labels: (B, T), not shifted, -100 where there is none.
            logits_to_keep: Number of last positions whose logits are computed; all if 0.
            kwargs: The other arguments of `ChatGLM1Model.forward`.
        """
        outputs = self.transformer(input_ids, **kwargs)
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Returns the arguments of the next forward pass; positions depend on all ids of a row.

        Args:
            input_ids: (B, T), all ids so far.
            attention_mask: (B, T), 0 at padding.
            kwargs: The cache, and settings of the generation.
        """
        cache = kwargs.get(CACHE)
        num_cached = cache.get_seq_length() - (self.config.pre_seq_len or 0) if cache is not None else 0
        positions = positions_of(input_ids, attention_mask, self.config)
        return {
            "input_ids": input_ids[:, max(num_cached, 0) :],
            "position_ids": positions[..., max(num_cached, 0) :],
            "attention_mask": attention_mask,
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
            CACHE: cache,
        }


AutoConfig.register(ChatGLM1Config.model_type, ChatGLM1Config)
AutoModelForCausalLM.register(ChatGLM1Config, ChatGLM1ForCausalLM)
