"""The spellings that releases of transformers before and after 5 use for settings of a Glm config."""

from __future__ import annotations

from glmja.errors import ModelError
from glmja.weights.chatglm_layout import Config

_OLDER_ROPE_KEYS = ("rope_theta", "partial_rotary_factor")  # at the top level, before transformers 5


def with_older_spellings(config: Config) -> Config:
    """Adds the keys of a Glm config that releases of transformers before 5 read.

    They do not know `rope_parameters` and would silently use their default rotary base, 10,000; so do servers that
    build on them. `dtype` is read from 4.56 on.
    """
    rope = config["rope_parameters"]
    older = {key: rope[key] for key in _OLDER_ROPE_KEYS if key in rope}
    return config | older | ({"torch_dtype": config["dtype"]} if config.get("dtype") else {})


def without_older_spellings(config: Config) -> Config:
    """Returns a Glm config in the spelling of transformers 5; the inverse of `with_older_spellings`.

    Raises:
        ModelError: If the two spellings of a setting differ.
    """
    older = {key: config[key] for key in _OLDER_ROPE_KEYS if key in config}
    rope = config.get("rope_parameters") or {"rope_type": "default", **older}
    for key, value in older.items():
        if rope.get(key) != value:
            raise ModelError(
                f"the Glm config has {key} = {value!r}, but {rope.get(key)!r} in rope_parameters; make them equal"
            )
    kept = {key: value for key, value in config.items() if key not in (*_OLDER_ROPE_KEYS, "torch_dtype")}
    dtype = {"dtype": config["torch_dtype"]} if "dtype" not in config and config.get("torch_dtype") else {}
    return kept | dtype | ({"rope_parameters": rope} if rope.keys() >= set(_OLDER_ROPE_KEYS) else {})
