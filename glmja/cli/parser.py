"""A jsonargparse parser with errors of one line: which file, which key, which value, and what to do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from glmja.cli.config_safety import ALLOW_VARIABLE, ALLOWED, MODE, check_file
from glmja.cli.home_paths import expand_arguments, expand_home
from glmja.errors import ExitCode
from glmja.text.printable import printable

_NO_OPTION = re.compile(r"(?:Group '(?P<group>[^']*)' does not accept option|Option) '(?P<key>[^']*)'(?: is .*)?")
_NO_ARGUMENT = re.compile(r"unrecognized arguments: --(?P<key>[\w.]+).*")
_REQUIRED = re.compile(r"(the following arguments are required: )(\w.*)")

# jsonargparse reports a problem inside a class as a tree of lines: the key, each type of a union, why each fails
_KEY = re.compile(r'Parser key "([^"]*)":')
_REASONS = re.compile(r'Parser key "[^"]*":|Errors:')
_EXPECTED = re.compile(r"Expected an? (?:<class '(?P<kind>[^']*)'>|typing\.Literal\[(?P<choices>[^\]]*)\])")
_VALUE = re.compile(r"(?:Got|Given) value: (?!Namespace|NestedArg)([^\s\[{].*?)(?:\. Got value: .*)?$", re.MULTILINE)
_NOT_ALLOWED = re.compile(r"(Importing '[^']*') is not allowed")
_MORE = " …"
# keys whose value is a path, or a list of paths; pathlib takes an empty one as the working directory
_PATHS = {
    "base", "baseline", "cache_dir", "checkpoint", "ckpt_path", "corpus", "exclude", "init_from", "model", "model_dir",
    "output", "pack", "pieces", "run_dir", "tokenizer",
}  # fmt: skip
_NO_CLASS = re.compile(r"module '([^']*)' has no attribute '([^']*)'")


class CliParser(ArgumentParser):
    """Reports a wrong command line in one line; set `GLMJA_DEBUG=1` to see the whole report of jsonargparse.

    Flags may be written with `-` or `_`, and a boolean flag without a value means true.

    Attributes:
        help_flag: Flag that lists everything the parser accepts.
        usual_names: The key that is meant by a name that is none.
        named_lists: Flags that are followed by a dot and a name of the user's, in which `-` and `_` differ.
    """

    help_flag = "--help"
    usual_names: Mapping[str, str] = {}
    named_lists: Collection[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Creates a parser whose YAML files may hold each key only once; takes what `ArgumentParser` takes."""
        self._file = ""
        kwargs.setdefault("parser_mode", MODE)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parses the arguments, those of the process by default; a path may not be empty."""
        given = sys.argv[1:] if args is None else args
        config = expand_home(super().parse_args(self.prepare_args(given), *more, **kwargs))
        for key, value in config.items():
            if key.rpartition(".")[2] in _PATHS and (value == "" or (isinstance(value, list) and "" in value)):
                flag = key.replace(".init_args.", ".")
                self.error(f"--{flag} is empty, perhaps from an unset variable of the shell; give a path")
        return config

    def prepare_args(self, args: Sequence[str]) -> list[str]:
        """Returns arguments as jsonargparse takes them."""
        return spell_flags(expand_arguments(args), self._boolean_flags(), self.named_lists)

    def _boolean_flags(self) -> set[str]:
        return {key for key, value in self.get_defaults(skip_validation=True).items() if isinstance(value, bool)}

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parses a configuration file; errors name the file."""
        if Path(path).is_file():
            try:
                check_file(Path(path))
            except ValueError as error:
                self.error(str(error), error)
        before, self._file = self._file, f"{path}: "
        try:
            return super().parse_path(path, *args, **kwargs)
        finally:
            self._file = before

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the program with exit code 2; raises where jsonargparse expects it, as for the parser of a class."""
        message = self._with_known_keys(message)
        if not self.exit_on_error or os.environ.get("GLMJA_DEBUG") == "1":
            super().error(message, ex)
        text = in_one_line(message)
        if not text.startswith(self._file):
            text = self._file + text
        if ";" not in text:
            text += f" ({self.help_flag} lists what is accepted)"
        print(f"{self.prog}: error: {printable(text)}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)

    def _with_known_keys(self, message: str) -> str:
        """Adds to the message about an unknown key the nearest known one; spells flags with dashes."""
        no_argument = _NO_ARGUMENT.fullmatch(message)
        found = _NO_OPTION.fullmatch(message) or no_argument
        if (missing := _REQUIRED.fullmatch(message)) and self.exit_on_error:  # else they are keys of a class
            return missing[1] + ", ".join(f"--{key}" for key in missing[2].split(", "))
        if not found:
            return message
        is_unknown_flag = bool(no_argument) and self.exit_on_error
        if no_argument:
            message = (
                f"unknown flag --{found['key']}" if is_unknown_flag else f"Option '{found['key']}' is not accepted"
            )
        group = f"{found['group']}." if found.groupdict().get("group") else ""
        keys = self.get_defaults(skip_validation=True).keys()
        known = [key.removeprefix(group) for key in keys if key.startswith(group)]
        hint = nearest(found["key"], known, self.usual_names, is_unknown_flag)
        if message.endswith(f"; {hint}"):  # of the parser of a class
            return message
        return f"{message}; {hint}" + (f" ({self.help_flag} lists all)" if hint.endswith(_MORE) else "")


def spell_flags(args: Sequence[str], booleans: Collection[str], named_lists: Collection[str] = ()) -> list[str]:
    """Returns arguments with `_` in the names of flags, and `true` for boolean flags without a value.

    Args:
        args: Arguments of a command line; `--max-steps=1`, `--max_steps 1` and `--overwrite` are possible.
        booleans: Names of the flags that may stand alone.
        named_lists: Flags that are followed by a dot and a name of the user's, which is kept.
    """
    spelled = []
    for arg, following in pairwise([*args, "--"]):
        name, equals, value = arg.partition("=")
        if name.startswith("--"):
            name = _with_underscores(name, named_lists)
        alone = name[2:] in booleans and not equals and is_flag(following)
        spelled.append(f"{name}=true" if alone else f"{name}{equals}{value}")
    return spelled


def is_flag(argument: str) -> bool:
    """Returns whether an argument is a flag, and not a value such as -1."""
    return argument.startswith(("--", "-c", "-h"))


def _with_underscores(flag: str, named_lists: Collection[str]) -> str:
    spelled = f"--{flag[2:].replace('-', '_')}"
    for one in named_lists:
        if spelled.startswith(f"{one}."):
            start = len(one) + 1
            end = start + len(flag[start:].partition(".")[0])
            return spelled[:start] + flag[start:end] + spelled[end:]
    return spelled


def in_one_line(message: str) -> str:
    """Returns the keys and the first reason of a report of jsonargparse."""
    *_, last = [None, *_REASONS.finditer(message)]
    if last is None:
        return " ".join(message.split())
    lines = [line.strip().removeprefix("- ") for line in message[last.end() :].splitlines()]
    # a line that ends with a colon says of which class the next one is
    reason = next((line for line in lines if line and not line.endswith(":")), "not accepted")
    reason = re.sub(r"^Type .*? callable class:\s*", "", reason)
    reason = reason.split(" Got value: ")[0].rstrip(".")
    if found := _EXPECTED.match(reason):
        value = _VALUE.search(message, last.end())
        reason = f"expected {found['kind'] or 'one of ' + found['choices']}" + (f", got {value[1]}" if value else "")
        if reason in ("expected str, got True", "expected str, got False"):
            reason += "; quote it: YAML reads no, off, yes and on as false and true"
    elif found := _NOT_ALLOWED.search(reason):
        reason = f"{found[1]} is not allowed; only {', '.join(ALLOWED)} and ${ALLOW_VARIABLE} are"
    elif found := _NO_CLASS.search(reason):
        # the module was imported when its class was looked for; nothing is imported here
        known = [key for key, value in vars(sys.modules.get(found[1], re)).items() if isinstance(value, type)]
        reason = f"there is no {found[1]}.{found[2]}; {nearest(found[2], known)}"
    return ": ".join([*_KEY.findall(message), reason])


def nearest(
    name: str, known: Iterable[str], usual_names: Mapping[str, str] | None = None, is_flag: bool = False
) -> str:
    """Returns a hint at the known name that is most similar to an unknown one, or at all known names.

    Args:
        name: The unknown name; of several joined by dots, the last one is looked up in `usual_names`.
        known: The known names.
        usual_names: The key that is meant by a name, even if another one is more similar.
        is_flag: Whether the names are flags; then a name that is similar to one in `usual_names` is also found.
    """
    names, usual, last = [key for key in known if not key.startswith("_")], usual_names or {}, name.rpartition(".")[2]
    if last in usual:
        return f"did you mean --{usual[last]}?"
    if near := get_close_matches(name, names, n=1):
        return f"did you mean {'--' if is_flag else ''}{near[0]}?"
    if is_flag and (near := get_close_matches(last, usual, n=1, cutoff=0.8)):
        return f"did you mean --{usual[near[0]]}?"
    return f"known are {shorten(', '.join(names), 80, placeholder=_MORE)}"
