"""What a configuration file may not do: say a thing twice, or import what it likes.

A `class_path` is imported, and so runs code, before anybody can look at it. Only the classes of this project, of
Lightning and of `torch.optim` may be named, and packages that the user of the machine, not the author of the file, has
allowed.
"""

from __future__ import annotations

import os
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import get_loader, set_loader, set_parsing_settings

ALLOWED = ("lit_modules", "data_modules", "callbacks", "lightning", "torch.optim")
ALLOW_VARIABLE = "GLMJA_ALLOW_IMPORTS"

_load = get_loader("yaml")


def allow_imports() -> tuple[str, ...]:
    """Limits what configurations of this process may import; returns what they may.

    Raises:
        ValueError: If `GLMJA_ALLOW_IMPORTS` is not a list of import paths with commas between.
    """
    named = [name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",") if name.strip()]
    allowed = (*ALLOWED, *named)
    try:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(allowed))
    except ValueError as error:
        raise ValueError(f"{ALLOW_VARIABLE}={','.join(named)}: {error}") from None
    return allowed


def refuse_duplicate_keys() -> None:
    """Makes YAML with a key twice in one mapping an error; PyYAML would take the last."""
    set_loader("yaml", _load_once_each, (yaml.YAMLError,))


def _load_once_each(text: str) -> Any:
    value = _load(text)
    if isinstance(value, dict | list):
        _check(yaml.compose(text, Loader=yaml.SafeLoader))
    return value


def _check(node: yaml.Node | None) -> None:
    """Raises `YAMLError` for the first key that stands twice."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise yaml.YAMLError(f"the key {key.value!r} stands twice, in lines {lines[key.value]} and {line}")
                lines[key.value] = line
            _check(value)
