"""`glmja COMMAND …`, or `python -m glmja COMMAND …`: runs one of the commands, as `python -m glmja.COMMAND` does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from glmja import __version__
from glmja.cli.closed_output import quiet_when_output_closes
from glmja.cli.ctrl_c import exit_on_ctrl_c
from glmja.errors import ExitCode
from glmja.text.printable import printable

# in the order in which they are used
COMMANDS = {
    "build-tokenizer": "Add Japanese pieces to a ChatGLM tokenizer.",
    "resize-embeddings": "Add embedding rows for the new pieces: the Zero model.",
    "fit": "Train a model, as YAML files configure it.",
    "export": "Write the trained model, or a language pack, from a checkpoint.",
    "evaluate": "Measure a model and compare it with a baseline.",
    "chat": "Talk to a model in the terminal.",
    "convert": "Write a model in the layout of transformers, or in ChatGLM's own.",
    "demo": "Run all steps on a tiny model; takes two to three minutes on two cores.",
}
_MODULES = {"demo": "glmja.demo.pipeline"}  # of commands that are not the module of their name


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command, or lists the commands.

    Args:
        args: Name of the command, with `-` or `_`, and its arguments; those of the process by default.
    """
    with quiet_when_output_closes():
        _run(*((sys.argv[1:] if args is None else args) or ["--help"]))


def _run(name: str, *rest: str) -> None:
    prog = "glmja" if Path(sys.argv[0]).stem == "glmja" else "python -m glmja"
    if name in ("-h", "--help", "help"):
        print(_help(prog))
    elif name == "--version":
        print(f"glmja {__version__}")
    elif (command := name.replace("_", "-")) in COMMANDS:
        with exit_on_ctrl_c(f"{prog} {command}"):
            module = importlib.import_module(_MODULES.get(command, f"glmja.{command.replace('-', '_')}"))
        module.main([*rest])
    else:
        near = get_close_matches(command, COMMANDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
        print(f"{prog}: error: no command {printable(name)!r}; {remedy}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)


def _help(prog: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [OPTION ...]",
            "",
            "Adds Japanese to ChatGLM3-6B. Chinese and English tokenization stays unchanged.",
            "",
            "commands:",
            *lines,
            "",
            f"`{prog} COMMAND --help` lists the options of a command; `{prog} --version` prints the version.",
        ]
    )


if __name__ == "__main__":
    main()
