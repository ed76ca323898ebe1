"""Types and ranges of the settings that are read from a `config.json`, under the names of either layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from glmja.errors import ModelError

_MAX_LAYERS, _MAX = 10_000, 2**31 - 1  # larger numbers can only come from a damaged config


@dataclass(frozen=True)
class _Kind:
    """Type and range of a value.

    Attributes:
        what: The end of the sentence "it must be".
        holds: Whether a value is that.
    """

    what: str
    holds: Callable[[object], bool]


def _count(largest: int) -> _Kind:
    return _Kind(f"a whole number from 1 to {largest}", lambda value: type(value) is int and 0 < value <= largest)


def _number(what: str, holds: Callable[[float], bool]) -> _Kind:
    # comparisons are false for NaN, and do not convert integers of thousands of digits
    return _Kind(what, lambda value: isinstance(value, int | float) and type(value) is not bool and holds(value))


def _only(value: object) -> _Kind:
    what = f"{value!r}: nothing else can be converted"
    return _Kind(what, lambda found: type(found) is type(value) and found == value)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX


_COUNT, _LAYERS = _count(_MAX), _count(_MAX_LAYERS)
_EPSILON = _number("a number above 0 and below 1", lambda value: 0 < value < 1)
_SHARE = _number("a number from 0 to below 1", lambda value: 0 <= value < 1)
_PART = _number("a number above 0, up to 1", lambda value: 0 < value <= 1)
_POSITIVE = _number("a positive number", lambda value: 0 < value < 1e30)
_BOOL = _Kind("true or false", lambda value: type(value) is bool)
_PADDING = _Kind("the id of a token, or null", lambda value: value is None or _is_id(value))
_STOP = _Kind(
    "the id of a token, or a list of some",
    lambda value: _is_id(value) or (isinstance(value, list) and value != [] and all(map(_is_id, value))),
)
_PREFIX = _Kind("a length, or null", lambda value: value is None or _COUNT.holds(value))
_ROPE = _Kind("an object", lambda value: isinstance(value, dict))

_KINDS: dict[str, _Kind] = {
    # ChatGLM's names
    "padded_vocab_size": _COUNT, "ffn_hidden_size": _COUNT, "num_layers": _LAYERS, "kv_channels": _COUNT,
    "multi_query_group_num": _COUNT, "seq_length": _COUNT, "layernorm_epsilon": _EPSILON, "add_qkv_bias": _BOOL,
    "rope_ratio": _POSITIVE,
    # Glm's names
    "vocab_size": _COUNT, "intermediate_size": _COUNT, "num_hidden_layers": _LAYERS, "head_dim": _COUNT,
    "num_key_value_heads": _COUNT, "max_position_embeddings": _COUNT, "rms_norm_eps": _EPSILON,
    "attention_bias": _BOOL, "rope_theta": _POSITIVE, "partial_rotary_factor": _PART, "rope_parameters": _ROPE,
    "hidden_act": _only("silu"),
    # names of several
    "hidden_size": _COUNT, "num_attention_heads": _COUNT, "attention_dropout": _SHARE, "pad_token_id": _PADDING,
    "eos_token_id": _STOP, "tie_word_embeddings": _only(False),
}  # fmt: skip
_OWN_WIDTH = "inner_hidden_size"  # which only ChatGLM-6B has
_CHATGLM1_KINDS = {
    _OWN_WIDTH: _COUNT, "max_sequence_length": _COUNT, "mask_token_id": _PADDING, "gmask_token_id": _PADDING,
    "bos_token_id": _PADDING, "pre_seq_len": _PREFIX, "prefix_projection": _BOOL,
}  # fmt: skip
_ROPE_KINDS = {"rope_type": _only("default"), "rope_theta": _POSITIVE, "partial_rotary_factor": _PART}


def check_kinds(config: Mapping[str, object]) -> None:
    """Checks the type and the range of each setting that a config has; settings that nothing reads may be anything.

    Args:
        config: The content of a `config.json`, in either layout.

    Raises:
        ModelError: If a value is of another type or out of range; names the setting and the value.
    """
    _check(config, _KINDS, "")
    if _OWN_WIDTH in config:
        _check(config, _CHATGLM1_KINDS, "")
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        _check(rope, _ROPE_KINDS, "rope_parameters.")
    rows = config.get("padded_vocab_size", config.get("vocab_size"))
    for key in ("pad_token_id", "eos_token_id"):
        value = config.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if isinstance(rows, int) and max(ids, default=0) >= rows:
            raise ModelError(f"the config has {key} = {_shown(value)}, but the model has only {rows} rows")


def check_divisible(config: Mapping[str, int]) -> None:
    """Checks that key groups share query heads evenly and that half of a head can be rotated, in Glm's names.

    Raises:
        ModelError: If not; gives both numbers.
    """
    heads, groups, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if heads % groups:
        raise ModelError(f"the config has {heads} attention heads in {groups} groups, which do not share them evenly")
    if head_dim % 4:
        raise ModelError(f"the config has heads of width {head_dim}; it must be a multiple of 4, of which half rotates")


def check_same(config: Mapping[str, object], expected: Mapping[str, object], absent: Iterable[str] = ()) -> None:
    """Checks settings that have one value in every model that can be converted.

    Args:
        config: The content of a `config.json`.
        expected: The value of each setting.
        absent: Settings that may be missing.

    Raises:
        ModelError: If one has another value or type.
    """
    for key, value in expected.items():
        if key not in config and key in absent:
            continue
        if type(config[key]) is not type(value) or config[key] != value:
            raise ModelError(f"the ChatGLM config has {key} = {_shown(config[key])}; only {value!r} can be converted")


def _check(values: Mapping[str, object], kinds: Mapping[str, _Kind], prefix: str) -> None:
    for key, kind in kinds.items():
        if key in values and not kind.holds(values[key]):
            raise ModelError(f"the config has {prefix}{key} = {_shown(values[key])}; it must be {kind.what}")


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a number of more than 18 digits"
    return text if len(text) <= 40 else f"{text[:39]}…"
