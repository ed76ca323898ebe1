"""A command line that says in one line what is wrong with it: which file, which key, which value, what to do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from glmja.cli.config_safety import ALLOW_VARIABLE, ALLOWED, check_file, refuse_duplicate_keys
from glmja.text.printable import printable

USAGE_ERROR = 2

# Of what jsonargparse says about a class, only the reason helps; the rest names Python types.
_NOISE = re.compile(
    r"does not validate against any of the union subtypes|subtypes:|errors:|given value type|expected a path but"
    r"|expected a (dot import path|<class 'nonetype'>)|not a valid subclass|subclass types expect|a class path \(str\)"
    r"|a dict (with|without) ",
    re.IGNORECASE,
)
_SHORTER = (
    (re.compile(r"Problem with given class_path '[^']*':\s*"), ""),
    (re.compile(r"Type [\w.]*Callable\[.*?\] expects a function or a callable class:\s*"), ""),
    (re.compile(r'Parser key "([^"]*)":'), r"\1:"),
    (re.compile(r"Expected an? <class '([^']*)'>"), r"expected \1"),
    (re.compile(r"Expected an? typing\.Literal\[(.*?)\]"), r"expected one of \1"),
    (re.compile(r"\.? (?:Got|Given) value: (?=[^\s\[{])(?!Namespace|NestedArg)(.*)"), r", got \1"),
    (re.compile(r"\.? (?:Got|Given) value: .*"), ""),
)
_NOT_ALLOWED = re.compile(r"(Importing '[^']*') is not allowed.*", re.DOTALL)
_NO_CLASS = re.compile(r"module '([^']*)' has no attribute '([^']*)'")
_NO_OPTION = re.compile(r"(?:Group '(?P<group>[^']*)' does not accept option|Option) '(?P<key>[^']*)'(?: is .*)?")
_NO_ARGUMENT = re.compile(r"unrecognized arguments: --(?P<key>[\w.]+).*")
_UNQUOTED = re.compile(r"expected str, got (?:True|False)$")


class CliParser(ArgumentParser):
    """Reports a wrong command line in one line; set `GLMJA_DEBUG=1` to see all that jsonargparse says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse's, but a YAML file may say a thing once only."""
        refuse_duplicate_keys()
        self._file = ""
        super().__init__(*args, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's; what is wrong in the file is told with its name."""
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
        """Ends the program with exit code 2; raises where a caller wants it, as around the parser of a class."""
        message = self._with_known_keys(message)
        if not self.exit_on_error or os.environ.get("GLMJA_DEBUG") == "1":
            super().error(message, ex)
        text = in_one_line(message)
        if not text.startswith(self._file):
            text = self._file + text
        if ";" not in text:
            text += " (--help shows what is accepted)"
        print(f"{self.prog}: error: {printable(text)}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)

    def _with_known_keys(self, message: str) -> str:
        """What is not accepted, with the nearest of what is."""
        found = _NO_OPTION.fullmatch(message) or _NO_ARGUMENT.fullmatch(message)
        if not found:
            return message
        group = f"{found['group']}." if found.groupdict().get("group") else ""
        known = [action.dest.removeprefix(group) for action in self._actions if action.dest.startswith(group)]
        return f"{message}; {_nearest(found['key'], known)}"


def in_one_line(message: str) -> str:
    """What jsonargparse says, without what only a programmer would want to know."""
    message = _NOT_ALLOWED.sub(rf"\1 is not allowed; only {', '.join(ALLOWED)} and ${ALLOW_VARIABLE} are", message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    text = " ".join(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    for pattern, short in _SHORTER:
        text = pattern.sub(short, text)
    before, expected, kinds = text.partition("expected ")
    text = before + expected + kinds.replace(" expected ", " or ")
    text = _NO_CLASS.sub(_with_known_classes, text)
    if _UNQUOTED.search(text):
        text += "; quote it: YAML reads no, off, yes and on as false and true"
    return text


def _with_known_classes(found: re.Match[str]) -> str:
    module, name = found.groups()
    # of a module that was imported, as its class was looked for; nothing is imported here
    known = [key for key, value in vars(sys.modules.get(module, re)).items() if isinstance(value, type)]
    return f"there is no {module}.{name}; {_nearest(name, known)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = [key for key in known if not key.startswith(("_", "print_", "help")) and not key.endswith(".help")]
    if near := get_close_matches(name, names, n=1):
        return f"did you mean {near[0]}?"
    return f"known are {shorten(', '.join(names), 80, placeholder=' …')}"
