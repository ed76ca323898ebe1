"""The settings of ChatGLM-6B of March 2023, for `transformers`."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

# the name that this version of transformers has for the cache
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class ChatGLM1Config(PretrainedConfig):
    """Settings of ChatGLM-6B, under the names that transformers uses."""

    model_type = "glmja_chatglm1"
    keys_to_ignore_at_inference = (CACHE,)

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 32,
        intermediate_size: int = 16384,
        max_position_embeddings: int = 2048,
        layernorm_epsilon: float = 1e-5,
        use_cache: bool = True,
        mask_token_id: int = 130000,
        gmask_token_id: int = 130001,
        bos_token_id: int = 130004,
        eos_token_id: int | list[int] = 130005,
        pad_token_id: int = 3,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        """Sets the settings; the defaults are those of the published model.

        Args:
            vocab_size: Rows of the embeddings.
            hidden_size: Width of the hidden states.
            num_hidden_layers: Number of layers.
            num_attention_heads: Number of attention heads.
            intermediate_size: Width inside the MLP.
            max_position_embeddings: The longest sequence, in tokens.
            layernorm_epsilon: Epsilon of the layer norms.
            use_cache: Whether generation caches keys and values.
            mask_token_id: Id of `[MASK]`.
            gmask_token_id: Id of `[gMASK]`.
            bos_token_id: Id of `<sop>`, with which an answer begins.
            eos_token_id: Id of `<eop>`, with which it ends.
            pad_token_id: Id of `<pad>`.
            pre_seq_len: Length of a P-tuning v2 prefix; None if there is none.
            prefix_projection: Whether an MLP computes the prefix.
            tie_word_embeddings: Must be false: the published matrices are equal, but stored twice and trained apart.
            kwargs: Settings of every model of transformers.
        """
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.max_position_embeddings, self.layernorm_epsilon = max_position_embeddings, layernorm_epsilon
        self.use_cache, self.mask_token_id, self.gmask_token_id = use_cache, mask_token_id, gmask_token_id
        self.pre_seq_len, self.prefix_projection = pre_seq_len, prefix_projection
        ids = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        super().__init__(**ids, tie_word_embeddings=tie_word_embeddings, **kwargs)

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Number of heads of keys and values: each query head has its own."""
        return self.num_attention_heads
