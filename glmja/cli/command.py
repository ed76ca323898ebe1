"""Shared command-line parsing and error reporting."""

from __future__ import annotations

import errno
import inspect
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, get_type_hints

from docstring_parser import parse as parse_docstring

from glmja.cli.closed_output import is_output_closed, quiet_when_output_closes
from glmja.cli.ctrl_c import exit_on_ctrl_c, keep_exit_code, report_ctrl_c
from glmja.cli.ending import Ending, Values, show_ending
from glmja.cli.parser import CliParser
from glmja.errors import LESS_MEMORY, DataError, ExitCode, MachineError, ModelError, is_out_of_memory
from glmja.text.printable import printable

# Errors of the operating system that are not about the input, and the remedy for each.
_REMEDIES = {
    errno.ENOSPC: "make room, or choose another disk",
    errno.EDQUOT: "make room, or choose another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EADDRINUSE: "choose another port",
    errno.ENOMEM: "use a machine with more memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_USE_MEMORY = ("batch_size", "row_len", "max_new_tokens")  # parameters of commands
_UNION = "Does not validate against any of the Union subtypes"


def program(command: str) -> str:
    """Returns a command as the user called it: `glmja export`, or `python -m glmja.export`.

    Args:
        command: Name of the command's module, such as `resize_embeddings`.
    """
    called = Path(sys.argv[0])
    if called.stem == "glmja":
        return f"glmja {command.replace('_', '-')}"
    if called.parts[-2:] == ("glmja", "__main__.py"):
        return f"python -m glmja {command.replace('_', '-')}"
    return f"python -m glmja.{command}"


def run_command(
    function: Callable[..., Any],
    args: list[str] | None = None,
    ending: Callable[[Values, Any], Ending] | None = None,
) -> Any:
    """Parses the command line of a function and calls it; see `one_line_errors` for what happens to exceptions.

    Each parameter becomes a flag, with the type of its annotation and the text of the docstring. A flag of type
    `list[str]` takes several values and can be repeated.

    Args:
        function: Function of the command, named like the command's module.
        args: Arguments; those of the process by default.
        ending: Returns what to say at the end, given the values of the parameters and what the function returned;
            nothing by default.

    Returns:
        The return value of the function.
    """
    start = time.monotonic()
    with quiet_when_output_closes():
        with exit_on_ctrl_c(program(function.__name__)):
            parser = _function_parser(function)
            values = {key: value for key, value in parser.parse_args(args).as_dict().items() if key != "config"}
        in_use = [f"`{name}`" for name in _USE_MEMORY if name in values]
        less_memory = " or ".join(in_use) or "the use of memory elsewhere"
        flags = {name: f"--{name}" for name in values}
        with one_line_errors(str(parser.prog), less_memory=less_memory, flags=flags):
            returned = function(**values)
        if ending is not None:
            last = ending(values, returned)
            show_ending(last, time.monotonic() - start, program(last.next_command))
        return returned


def command_line(function: Callable[..., Any], values: Values) -> str:
    """Returns the command line that calls a function with the given values; values that are defaults are left out.

    Args:
        function: Function of a command.
        values: Value of each parameter.
    """
    parts = [program(function.__name__)]
    for name, parameter in inspect.signature(function).parameters.items():
        value = values[name]
        if value != parameter.default:
            shown = [str(value).lower()] if isinstance(value, bool) else value if isinstance(value, list) else [value]
            parts.append(" ".join([f"--{name}", *(shlex.quote(str(one)) for one in shown)]))
    return " ".join(parts)


def _function_parser(function: Callable[..., Any]) -> CliParser:
    parameters = inspect.signature(function).parameters
    docstring = parse_docstring(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description for parameter in docstring.params}
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    prog = program(function.__name__)
    usage = " ".join([prog, *(f"--{name} {name.upper()}" for name in parameters if name in required), "[OPTION ...]"])
    parser = CliParser(prog=prog, usage=usage, description=docstring.short_description)
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    lists = [name for name, parameter in parameters.items() if parameter.annotation in (list[str], "list[str]")]
    parser.add_function_arguments(_with_types(function), as_group=False, skip={*lists})
    for name in lists:
        default = None if name in required else parameters[name].default
        parser.add_argument(
            f"--{name}",
            nargs="+",
            action="extend",
            type=str,
            default=default,
            required=name in required,
            help=helps[name],
        )
    return parser


def _with_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a copy of a function whose parameters are annotated with types instead of their names.

    To find a name, jsonargparse would also import what a module imports for type checkers only, such as torch.
    """
    typed = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    typed.__kwdefaults__, typed.__doc__, typed.__module__ = (
        function.__kwdefaults__,
        function.__doc__,
        function.__module__,
    )
    typed.__annotations__ = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    typed.__annotations__ = get_type_hints(typed)
    return typed


@contextmanager
def one_line_errors(
    command: str,
    more: Mapping[type[Exception], int] | None = None,
    less_memory: str = LESS_MEMORY,
    flags: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Reports bad input, which the library raises as `ValueError` or `OSError`, in one line and ends the program.

    The exit code is 3 for data; 4 for models, tokenizers and checkpoints; 5 for the machine; and 2 for all other
    input; Ctrl-C ends it with 130. Any other exception is a bug and passes. Set `GLMJA_DEBUG=1` to see the traceback.

    Args:
        command: Start of the line.
        more: Further exceptions that are not bugs, and their exit codes.
        less_memory: Parameters to lower if memory runs out.
        flags: The command's flag, or key of its configuration, for each parameter that a message names in backticks.
    """
    codes: dict[type[Exception], int] = {
        **(more or {}),
        DataError: ExitCode.DATA,
        ModelError: ExitCode.MODEL,
        MachineError: ExitCode.MACHINE,
        ChildProcessError: ExitCode.MACHINE,
        MemoryError: ExitCode.MACHINE,
        ValueError: ExitCode.USAGE,
        OSError: ExitCode.USAGE,
    }
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("GLMJA_DEBUG") == "1":
            raise
        report_ctrl_c(command)
        keep_exit_code()
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except Exception as raised:
        if isinstance(raised, BrokenPipeError) and is_output_closed():
            raise
        errors = raised.exceptions if isinstance(raised, ExceptionGroup) else (raised,)
        reports = [_report(_without_union(error), codes, less_memory) for error in errors]
        if any(code is None for code, _ in reports) or os.environ.get("GLMJA_DEBUG") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all processes of a run raise the same
            for text in dict.fromkeys(text for _, text in reports):
                line = with_flags(" ".join(text.split()), flags or {})
                print(f"{command}: error: {printable(line)}", file=sys.stderr)
        raise SystemExit(reports[0][0]) from raised


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replaces parameters in backticks by the flags of a command, such as `overwrite` by --overwrite.

    Args:
        message: Message of an exception of the library.
        flags: The command's flag for each of its parameters; other words in backticks stay.
    """
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), message)


def _report(error: Exception, codes: Mapping[type[Exception], int], less_memory: str) -> tuple[int | None, str]:
    """Returns the exit code, None for a bug, and the message."""
    if is_out_of_memory(error):
        return ExitCode.MACHINE, f"out of memory ({_first_sentences(error)}); lower {less_memory}"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return ExitCode.MACHINE, f"{_first_sentences(error)}; lower `num_workers`, or free /dev/shm"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return ExitCode.MACHINE, f"{error}; {_REMEDIES[error.errno]}"
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None), str(error)


def _without_union(error: Exception) -> Exception:
    """Returns the exception of a configured class; jsonargparse wraps it in a list of all possible types."""
    while str(error).startswith(_UNION) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _first_sentences(error: Exception) -> str:
    """Returns the requested size from torch's message, without its long advice."""
    return ". ".join(str(error).split("\n", 1)[0].split(". ")[:2])[:100].rstrip(".") or type(error).__name__
