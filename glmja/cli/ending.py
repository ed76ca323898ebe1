"""The last lines of a command: what it has done, how long that took, and which command comes next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from glmja.text.terminal import show


@dataclass(frozen=True)
class Ending:
    """What a command says at its end.

    Attributes:
        done: What is where, such as `tokenizer in models/tokenizer`.
        next_command: Name of the module of the command that comes next, such as `resize_embeddings`.
        flags: Its flags, without dashes, and their values. A value in capitals, such as FOLDER, is left to the user.
    """

    done: str
    next_command: str
    flags: Mapping[str, str] = field(default_factory=dict)


def show_ending(ending: Ending, seconds: float, program: str) -> None:
    """Prints the lines.

    Args:
        ending: What to say.
        seconds: Duration of the command.
        program: The next command as a user of this command calls it, such as `python -m glmja.export`.
    """
    flags = "".join(f" --{flag} {shlex.quote(value)}" for flag, value in ending.flags.items())
    show(f"done: {ending.done}, in {timedelta(seconds=round(seconds))}", style="bold green")
    show(f"next: {program}{flags}")
