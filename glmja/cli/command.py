"""The manners of a verb: arguments from its signature and docstring, one line for bad input."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from docstring_parser import parse as parse_docstring

from glmja.cli.parser import USAGE_ERROR, CliParser
from glmja.errors import LESS_MEMORY, DataError, MachineError, ModelError, is_out_of_memory
from glmja.text.printable import printable

DATA_ERROR, MODEL_ERROR, ENVIRONMENT_ERROR = 3, 4, 5

# What is the machine's fault, and what to do then.
_ENVIRONMENT = {
    errno.ENOSPC: "make room, or choose another disk",
    errno.EDQUOT: "make room, or choose another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EADDRINUSE: "choose another port",
    errno.ENOMEM: "use a machine with more memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_USES_MEMORY = ("batch_size", "row_len", "max_new_tokens")
_UNION = "Does not validate against any of the Union subtypes"


def run_command(act: Callable[..., Any], args: list[str] | None = None, many: Sequence[str] = ()) -> Any:
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
    parser = CliParser(prog=f"python -m {act.__module__}".replace("__main__", f"glmja.{act.__name__}"))
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
    less = " or ".join(f"`{name}`" for name in _USES_MEMORY if name in values) or "what else runs on this machine"
    with one_line_errors(str(parser.prog), less_memory=less, flags={name: f"--{name}" for name in values}):
        return act(**values)


@contextmanager
def one_line_errors(
    command: str,
    more: Mapping[type[Exception], int] | None = None,
    less_memory: str = LESS_MEMORY,
    flags: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Turns bad input, which the library reports as `ValueError` or `OSError`, into a line and an exit code.

    Args:
        command: What the line begins with.
        more: Other exceptions that are no bugs, and their exit codes.
        less_memory: What to lower if memory runs out.
        flags: How the command spells a parameter that a message names in backticks.
    """
    codes: dict[type[Exception], int] = {
        **(more or {}),
        DataError: DATA_ERROR,
        ModelError: MODEL_ERROR,
        MachineError: ENVIRONMENT_ERROR,
        ChildProcessError: ENVIRONMENT_ERROR,
        MemoryError: ENVIRONMENT_ERROR,
        ValueError: USAGE_ERROR,
        OSError: USAGE_ERROR,
    }
    try:
        yield
    except Exception as raised:
        errors = raised.exceptions if isinstance(raised, ExceptionGroup) else (raised,)
        judged = [_judge(_meant(error), codes, less_memory) for error in errors]
        if any(code is None for code, _ in judged) or os.environ.get("GLMJA_DEBUG") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # what all processes of a run raise is said once
            for text in dict.fromkeys(text for _, text in judged):
                line = with_flags(" ".join(text.split()), flags or {})
                print(f"{command}: error: {printable(line)}", file=sys.stderr)
        raise SystemExit(judged[0][0]) from raised


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replaces parameters in backticks by the flags of a command, as `overwrite` by --overwrite.

    Args:
        message: Message of an exception of the library.
        flags: Flag, or key of a configuration, of each parameter that the command takes; others stay as they are.
    """
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), message)


def _judge(error: Exception, codes: Mapping[type[Exception], int], less_memory: str) -> tuple[int | None, str]:
    """The exit code, None for a bug, and what to say."""
    if is_out_of_memory(error):
        return ENVIRONMENT_ERROR, f"out of memory ({_first_sentences(error)}); lower {less_memory}"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return ENVIRONMENT_ERROR, f"{_first_sentences(error)}; lower `num_workers`, or free /dev/shm"
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return ENVIRONMENT_ERROR, f"{error}; {_ENVIRONMENT[error.errno]}"
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None), str(error)


def _meant(error: Exception) -> Exception:
    """What a class raised that a configuration names; jsonargparse adds all that it was given."""
    while str(error).startswith(_UNION) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _first_sentences(error: Exception) -> str:
    """What was asked for; of what torch says after it, nobody can read all in one line."""
    return ". ".join(str(error).split("\n", 1)[0].split(". ")[:2])[:100].rstrip(".") or type(error).__name__
