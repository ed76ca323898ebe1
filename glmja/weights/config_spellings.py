"""The spellings that releases of transformers before and after 5 use for settings of a Glm config."""

from __future__ import annotations

from glmja.errors import ModelError
from glmja.weights.chatglm_layout import Config
from glmja.weights.config_kinds import check_kinds

_DTYPE_KEYS = ("dtype", "torch_dtype")  # from transformers 4.56 on, and before
_OLDER_ROPE_KEYS = ("rope_theta", "partial_rotary_factor")  # at the top level, before transformers 5


def with_older_spellings(config: Config) -> Config:
    """Adds the rotary settings of a Glm config where releases of transformers before 5 read them.

    They do not know `rope_parameters` and would silently use their default rotary base, 10,000; so do servers that
    build on them.
    """
    rope = config["rope_parameters"]
    return config | {key: rope[key] for key in _OLDER_ROPE_KEYS if key in rope}


def with_dtype(config: Config, name: str) -> Config:
    """Returns the config with the name of the weights' dtype in the place where a reader looks for it.

    Releases of transformers from 4.56 on read `dtype`, earlier ones and ChatGLM's own code `torch_dtype`; servers read
    either. Both are written for every layout, so that none of them finds a value that the weights do not have.
    """
    return config | {"dtype": name, "torch_dtype": name}


def without_dtype(config: Config) -> Config:
    """Returns the config without a dtype: the tensors have one, and a config may say another."""
    return {key: value for key, value in config.items() if key not in _DTYPE_KEYS}


def without_older_spellings(config: Config) -> Config:
    """Returns a Glm config in the spelling of transformers 5, without a dtype; see `with_older_spellings`.

    Raises:
        ModelError: If the two spellings of a setting differ.
    """
    check_kinds(config)
    older = {key: config[key] for key in _OLDER_ROPE_KEYS if key in config}
    rope = config.get("rope_parameters") or {"rope_type": "default", **older}
    for key, value in older.items():
        if rope.get(key) != value:
            raise ModelError(
                f"the Glm config has {key} = {value!r}, but {rope.get(key)!r} in rope_parameters; make them equal"
            )
    kept = {key: value for key, value in without_dtype(config).items() if key not in _OLDER_ROPE_KEYS}
    return kept | ({"rope_parameters": rope} if rope.keys() >= set(_OLDER_ROPE_KEYS) else {})
