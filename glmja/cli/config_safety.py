"""Limits of configuration files: plain YAML, no key twice, and imports from known packages only.

A `class_path` is imported, which runs code, before its class can be checked. Configurations may therefore name only
classes of this project, of Lightning and of `torch.optim`, and of packages that the user of the machine, who need not
be the author of the file, has allowed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import get_loader, set_loader, set_parsing_settings

ALLOWED = ("lit_modules", "data_modules", "callbacks", "lightning", "torch.optim")
ALLOW_VARIABLE = "GLMJA_ALLOW_IMPORTS"

MODE = "yaml_with_unique_keys"  # `parser_mode` of parsers that read YAML with `load_yaml`

# PyYAML's loader recurses in C and ends the process at some thousand levels. Aliases let a short file stand for
# billions of values, or for an endless one.
_MAX_DEPTH, _MAX_VALUES = 50, 10_000

_OPENS_COLLECTION = re.compile(r"[\[{:?-]")  # each list and mapping has at least one of these of its own

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML can be built without its part in C

_load = get_loader("yaml")  # jsonargparse's, which reads 1e-3 as a number and dates as texts


def allow_imports() -> tuple[str, ...]:
    """Limits what configurations of this process may import.

    Returns:
        Packages, modules and classes that may be named, `GLMJA_ALLOW_IMPORTS` included.

    Raises:
        ValueError: If `GLMJA_ALLOW_IMPORTS` is not a comma-separated list of import paths.
    """
    named = [name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",") if name.strip()]
    allowed = (*ALLOWED, *named)
    try:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(allowed))
    except ValueError as error:
        raise ValueError(f"{ALLOW_VARIABLE}={','.join(named)}: {error}") from None
    return allowed


def check_file(path: Path) -> None:
    """Checks that a configuration file can be read, without looking at the meaning of its keys.

    Raises:
        ValueError: If it is not UTF-8, not YAML, has a key twice, or holds no keys; the message has the line.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        problem = str(error.problem).replace("tag:yaml.org,2002:", "!!")
        raise ValueError(f"{place}: not YAML ({problem}); correct the line, or quote the text in it") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if content is None:
        raise ValueError(f"{path}: the file is empty; write keys as in configs/, or leave the file out")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: not a mapping but a {type(content).__name__}; write `key: value` lines as in configs/"
        )


def load_yaml(text: str) -> Any:
    """Loads YAML as jsonargparse does, but refuses a key that occurs twice; PyYAML would take the last one.

    Raises:
        YAMLError: If the text is not YAML, has a key twice, or is deeper or larger than any configuration.
    """
    try:
        _check_depth(text)
        value = _load(text)
    except (ValueError, LookupError, AttributeError) as error:  # PyYAML raises these for `!!bool x` and huge numbers
        raise yaml.YAMLError(f"a value cannot be read: {error}; quote it") from error
    if isinstance(value, dict | list):
        _check_size(value, 0, 0)
        _check_keys(yaml.compose(text, Loader=_Loader))
    return value


set_loader(MODE, load_yaml, (yaml.YAMLError,))


def _check_depth(text: str) -> None:
    if len(_OPENS_COLLECTION.findall(text)) <= _MAX_DEPTH:
        return  # jsonargparse loads each value of a command line several times, nearly all of them short
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _too_large()


def _check_size(value: Any, depth: int, num_values: int) -> int:
    """Counts values, those behind an alias each time; returns the count so far."""
    num_values += 1
    if depth > _MAX_DEPTH or num_values > _MAX_VALUES:
        raise _too_large()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        num_values = _check_size(inner, depth + 1, num_values)
    return num_values


def _too_large() -> yaml.YAMLError:
    return yaml.YAMLError(f"more than {_MAX_DEPTH} levels or {_MAX_VALUES} values, counting aliases; shorten the file")


def _check_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise yaml.YAMLError(
                        f"the key {key.value!r} occurs twice, in lines {lines[key.value]} and {line}; keep one"
                    )
                lines[key.value] = line
            _check_keys(value)
