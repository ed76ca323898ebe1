"""The last lines of a command: what it has done, how long that took, and which command comes next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from glmja.text.terminal import show

Values = Mapping[str, Any]  # parameters of a command, or entries of a report, by name


@dataclass(frozen=True)
class Ending:
    """Closing message of a command.

    Attributes:
        done: What is where, such as `tokenizer in models/tokenizer`.
        next_command: Name of the module of the command that comes next, such as `resize_embeddings`.
        flags: Its flags, without dashes, and their values. A value in capitals, such as FOLDER, is left to the user.
        warnings: What the user should look at before, a sentence each.
        others: Further command lines that may come next.
    """

    done: str
    next_command: str
    flags: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    others: Sequence[str] = ()


def show_ending(ending: Ending, seconds: float, program: str) -> None:
    """Prints the lines: a WARN for each warning, or OK before what was done; how long it took; the next command.

    Args:
        ending: The message.
        seconds: Duration of the command.
        program: The next command as a user of this command calls it, such as `python -m glmja.export`.
    """
    flags = "".join(f" --{flag} {shlex.quote(value)}" for flag, value in ending.flags.items())
    show(*(f"WARN: {warning}" for warning in ending.warnings), style="bold yellow")
    word, style = ("done", "bold yellow") if ending.warnings else ("OK", "bold green")
    show(f"{word}: {ending.done}, in {timedelta(seconds=round(seconds))}", style=style)
    show(*(f"next: {line}" for line in (f"{program}{flags}", *ending.others)))
