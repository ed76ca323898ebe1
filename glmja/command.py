"""The manners of a verb: arguments from its signature and docstring, one line for bad input."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from glmja.config_safety import ALLOW_VARIABLE, ALLOWED, refuse_duplicate_keys
from glmja.errors import DataError, MachineError, ModelError

USAGE_ERROR, DATA_ERROR, MODEL_ERROR, ENVIRONMENT_ERROR = 2, 3, 4, 5

_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EADDRINUSE, errno.ENOMEM, errno.EMFILE}

# Of what jsonargparse says about a class, only the reason helps; the rest names Python types.
_NOISE = re.compile(
    r"does not validate against any of the union subtypes|subtypes:|errors:|given value|expected a <class 'nonetype'>"
    r"|expected a path but",
    re.IGNORECASE,
)

_NOT_ALLOWED = re.compile(r"(Importing '[^']*') is not allowed.*", re.DOTALL)


class OneLineParser(ArgumentParser):
    """Reports a wrong command line in one line; set `GLMJA_DEBUG=1` to see all that jsonargparse says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse's, but a YAML file may say a thing once only."""
        refuse_duplicate_keys()
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the program with exit code 2, unless a caller wants the exception."""
        if not self.exit_on_error or os.environ.get("GLMJA_DEBUG") == "1":
            super().error(message, ex)
        allowed = f"{', '.join(ALLOWED)} are, and what {ALLOW_VARIABLE} names"
        message = _NOT_ALLOWED.sub(rf"\1 is not allowed; {allowed}", message)
        lines = [
            line.strip().removeprefix("- ")
            for line in message.splitlines()
            if not _NOISE.match(line.strip().removeprefix("- "))
        ]
        text = " ".join(dict.fromkeys(line for line in lines if line))
        print(f"{self.prog}: error: {text} (--help shows what is accepted)", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


def run(act: Callable[..., Any], args: list[str] | None = None, many: Sequence[str] = ()) -> Any:
    """Parses the command line and carries out the verb.

    Bad input, which the library reports as `ValueError` or `OSError`, becomes one line on stderr and an exit code: 3
    for data, 4 for models, tokenizers and checkpoints, 5 for the machine, 2 for the rest; set `GLMJA_DEBUG=1` to see
    the traceback.

    Args:
        act: The verb's function; its signature and docstring are the command line.
        args: The arguments; the command line's if None.
        many: Parameters that take several values after one flag.

    Returns:
        What the function returns.
    """
    parser = OneLineParser(prog=f"python -m {act.__module__}".replace("__main__", f"glmja.{act.__name__}"))
    docstring = parse_docstring(inspect.getdoc(act) or "")
    parser.description = docstring.short_description
    parser.add_argument("--config", action="config", help="YAML file with any of these arguments.")
    parser.add_function_arguments(act, as_group=False, skip=set(many))
    for name in many:
        parameter = inspect.signature(act).parameters[name]
        described = next(p.description for p in docstring.params if p.arg_name == name)
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        # a flag that is given twice adds to itself
        parser.add_argument(
            f"--{name}", nargs="+", action="extend", type=str, default=default, help=described, required=default is None
        )
    config = parser.parse_args(args)
    values = {key: value for key, value in config.as_dict().items() if key != "config"}
    with one_line_errors(str(parser.prog)):
        return act(**values)


@contextmanager
def one_line_errors(command: str, more: Mapping[type[Exception], int] | None = None) -> Iterator[None]:
    """Turns bad input, which the library reports as `ValueError` or `OSError`, into a line and an exit code.

    Args:
        command: What the line begins with.
        more: Other exceptions that are no bugs, and their exit codes.
    """
    codes: dict[type[Exception], int] = {
        **(more or {}),
        DataError: DATA_ERROR,
        ModelError: MODEL_ERROR,
        MachineError: ENVIRONMENT_ERROR,
        ChildProcessError: ENVIRONMENT_ERROR,
        ValueError: USAGE_ERROR,
        OSError: USAGE_ERROR,
    }
    try:
        yield
    except tuple(codes) as error:
        if os.environ.get("GLMJA_DEBUG") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # what all processes of a run raise is said once
            print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        code = next(code for kind, code in codes.items() if isinstance(error, kind))
        of_machine = isinstance(error, OSError) and error.errno in _ENVIRONMENT
        raise SystemExit(ENVIRONMENT_ERROR if of_machine else code) from error
