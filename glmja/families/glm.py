"""The architecture that ChatGLM2, ChatGLM3 and the folders written by glmja share: `transformers`' Glm.

A folder that glmja writes in this layout keeps the family of its base: its `tokenizer.model` holds the control tokens.
"""

from __future__ import annotations

from glmja.families.family import LayerNames
from glmja.weights.chatglm_layout import Config, check_glm_config, layout_of, to_glm_config
from glmja.weights.config_spellings import without_older_spellings

GLM_LAYERS = LayerNames(
    linear=("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    embeddings=("embed_tokens", "lm_head"),
    transformer=("model.layers.", "model.norm."),
)


def glm_config(config: Config) -> Config:
    """Returns a config of ChatGLM2/3 or Glm under Glm's names.

    Raises:
        ModelError: If the architecture is unknown, or a setting is missing or has no counterpart.
    """
    config = to_glm_config(config) if layout_of(config) == "chatglm" else without_older_spellings(config)
    check_glm_config(config)
    return config
