"""The manners of a verb: arguments from its signature and docstring, one line for bad input."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

USAGE_ERROR = 2


def run(act: Callable[..., Any], args: list[str] | None = None, many: Sequence[str] = ()) -> Any:
    """Parses the command line and carries out the verb.

    Bad input, which the library reports as `ValueError` or `OSError`, becomes one line on stderr and exit
    code 2; set `GLMJA_DEBUG=1` to see the traceback.

    Args:
        act: The verb's function; its signature and docstring are the command line.
        args: The arguments; the command line's if None.
        many: Parameters that take several values after one flag.

    Returns:
        What the function returns.
    """
    parser = ArgumentParser(prog=f"python -m {act.__module__}".replace("__main__", f"glmja.{act.__name__}"))
    docstring = parse_docstring(inspect.getdoc(act) or "")
    parser.description = docstring.short_description
    parser.add_argument("--config", action="config", help="YAML file with any of these arguments.")
    parser.add_function_arguments(act, as_group=False, skip=set(many))
    for name in many:
        parameter = inspect.signature(act).parameters[name]
        described = next(p.description for p in docstring.params if p.arg_name == name)
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        parser.add_argument(f"--{name}", nargs="+", type=str, default=default, help=described, required=default is None)
    config = parser.parse_args(args)
    values = {key: value for key, value in config.as_dict().items() if key != "config"}
    with one_line_errors(str(parser.prog)):
        return act(**values)


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turns bad input, which the library reports as `ValueError` or `OSError`, into a line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("GLMJA_DEBUG") == "1":
            raise
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from error
