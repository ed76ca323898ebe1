"""What a configuration file may not do: be no YAML, say a thing twice, or import what it likes.

A `class_path` is imported, and so runs code, before anybody can look at it. Only the classes of this project, of
Lightning and of `torch.optim` may be named, and packages that the user of the machine, not the author of the file, has
allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import get_loader, set_loader, set_parsing_settings

ALLOWED = ("lit_modules", "data_modules", "callbacks", "lightning", "torch.optim")
ALLOW_VARIABLE = "GLMJA_ALLOW_IMPORTS"

_MOST_LEVELS, _MOST_VALUES = 50, 10_000

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


def check_file(path: Path) -> None:
    """Checks that a file can be a configuration; what its keys mean is not looked at.

    Raises:
        ValueError: If it is not UTF-8, not YAML, says a thing twice, or holds no keys; gives the line.
    """
    try:
        content = _load_once_each(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        problem = str(error.problem).replace("tag:yaml.org,2002:", "!!")
        raise ValueError(f"{place}: not YAML ({problem}); correct the line, or put quotes around texts") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if content is None:
        raise ValueError(f"{path}: the file is empty; write keys into it, as in configs/, or leave it out")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: not a mapping but {type(content).__name__}; write `key: value` lines, as in configs/"
        )


def _load_once_each(text: str) -> Any:
    try:
        _check_extent(text)
        value = _load(text)
    except (ValueError, LookupError, AttributeError) as error:  # what PyYAML makes of `!!bool x` and of huge numbers
        raise yaml.YAMLError(f"a value cannot be read: {error}; put quotes around it") from error
    if isinstance(value, dict | list):
        _check(yaml.compose(text, Loader=yaml.SafeLoader))
    return value


def _check_extent(text: str) -> None:
    """Raises `YAMLError` for nesting at which PyYAML's recursion in C ends the process, and for endless aliases."""
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    extents: dict[str, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            _extent(event, events, 1, extents)


def _extent(
    event: yaml.NodeEvent, events: Iterator[yaml.Event], level: int, extents: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """How many values a value holds, itself included, and on how many levels, when its aliases are written out."""
    num_values, num_levels = 1, 1
    if isinstance(event, yaml.CollectionStartEvent) and level <= _MOST_LEVELS:
        while not isinstance(inner := next(events), yaml.CollectionEndEvent):
            more, deep = _extent(inner, events, level + 1, extents)
            num_values, num_levels = num_values + more, max(num_levels, deep + 1)
    place = f"line {event.start_mark.line + 1}: "
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in extents:
            raise yaml.YAMLError(f"{place}*{event.anchor} stands for nothing before it; write the value out")
        num_values, num_levels = extents[event.anchor]
    elif event.anchor:
        extents[event.anchor] = num_values, num_levels
    if level + num_levels > _MOST_LEVELS + 1 or num_values > _MOST_VALUES:
        raise yaml.YAMLError(
            f"{place}more than {_MOST_LEVELS} levels or {_MOST_VALUES} values, aliases written out; no run has so many"
        )
    return num_values, num_levels


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
                    raise yaml.YAMLError(
                        f"the key {key.value!r} stands twice, in lines {lines[key.value]} and {line}; keep one"
                    )
                lines[key.value] = line
            _check(value)
