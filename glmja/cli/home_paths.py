"""`~` and `$HOME` at the start of a path, as a shell would expand them, in configurations and flags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

# texts that may begin with anything
_TEXTS = ("prompts", "prompt", "system", "question")
# at the start of a path, or behind LANG= as in `--texts ja=~/ja.txt`
_START = re.compile(r"(?P<before>(?:[\w.-]+=)?)(?P<home>~|\$HOME|\$\{HOME\})(?=/|$)")


def expand_home(value: Any) -> Any:
    """Returns a value with the home folder in every path that begins with `~`, `$HOME` or `${HOME}`.

    Args:
        value: Text, or lists, dictionaries and namespaces of them; what is neither is returned as it is.
    """
    if isinstance(value, str):
        found = _START.match(value)
        return f"{found['before']}{Path.home()}{value[found.end() :]}" if found else value
    if isinstance(value, list | tuple):
        return type(value)(expand_home(item) for item in value)
    if isinstance(value, dict):
        return {key: item if key in _TEXTS else expand_home(item) for key, item in value.items()}
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            if key not in _TEXTS:
                setattr(value, key, expand_home(item))
    return value


def expand_arguments(args: Sequence[str]) -> list[str]:
    """Returns the arguments of a command line; a shell expands `--key ~/x`, but not `--key=~/x` or `--key '~/x'`."""
    expanded, flag = [], ""
    for arg in args:
        if arg.startswith("--"):
            flag = arg[2:].partition("=")[0].rpartition(".")[2].replace("-", "_")
        is_text = flag in _TEXTS
        name, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
        expanded.append(arg if is_text else f"{name}{equals}{expand_home(value)}")
    return expanded
