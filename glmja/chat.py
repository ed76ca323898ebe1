"""`python -m glmja.chat`: a conversation with a model in the terminal, or one answer for a script.

What the model says is not trusted: characters that act on a terminal are shown as �, and nothing in it is markup.
Answers go to stdout; all else goes to stderr.
"""

from __future__ import annotations

import importlib
import inspect
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from glmja.cli.arguments import check_device
from glmja.cli.command import run_command, with_flags
from glmja.conversation.formats import TOOL_PROMPT
from glmja.conversation.messages import Message
from glmja.conversation.rendering import PromptFormat
from glmja.files.json_files import parse_json
from glmja.modeling.sampling import Sampling
from glmja.text.printable import printable
from glmja.weights.options import DtypeName

if TYPE_CHECKING:
    from transformers import GlmForCausalLM

    from glmja.conversation.dialogue import Dialogue, Ending

_HELP = """\
/reset        forget what was said
/system TEXT  start anew with this system message; without TEXT, with none
/show         the ids that the model read at the last turn, and in green those that it said
/help         this list
/exit         leave, as Ctrl-D does; Ctrl-C stops an answer"""
_COMMANDS = [line.split()[0] for line in _HELP.splitlines()]

_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


def chat(
    model: str,
    system: str | None = None,
    prompt: str | None = None,
    tools: str | None = None,
    format: PromptFormat = "chatglm3",
    device: str = "auto",
    dtype: DtypeName | None = None,
    max_new_tokens: int = 512,
    do_sample: bool = True,
    temperature: float = 0.8,
    top_p: float = 0.8,
    seed: int | None = None,
) -> list[Message]:
    """Talks with a model, line by line; /help lists what else a line can be.

    Args:
        model: Folder of a model, in either layout.
        system: System message before everything else.
        prompt: One question; its answer alone is written to stdout. `-` reads it from stdin.
        tools: JSON file with the list of tools that the assistant may call, each an object with a `name`, as ChatGLM3
            takes them. Their answers are asked for.
        format: Of the prompts: `chatglm3`, or the numbered rounds of `chatglm2` or `chatglm`.
        device: cuda, cuda:1, cpu, …; auto takes the first GPU, if there is one.
        dtype: Of the weights; by default as stored, but float32 on a CPU.
        max_new_tokens: An answer ends after so many tokens.
        do_sample: Sample instead of taking the likeliest token each time.
        temperature: Divides the logits before sampling.
        top_p: Sample from the fewest tokens that hold this share of the probability.
        seed: Of the sampling; the same seed gives the same answers. Drawn if left out.

    Returns:
        The conversation.

    Raises:
        ValueError: If a value is out of its range, or the model, the tools or the prompt cannot be used.
        OSError: If a file does not exist.
    """
    import torch

    from glmja.conversation.dialogue import Dialogue
    from glmja.modeling.loading import load_model
    from glmja.modeling.model_folder import check_folder, glm_config

    sampling = Sampling(max_new_tokens, do_sample, temperature, top_p, seed)
    place = check_device(device)
    opening = _opening(system, _read_tools(Path(tools)) if tools else [])
    tokenizer = check_folder(model)
    dialogue = Dialogue(tokenizer, format, sampling, glm_config(model)["max_position_embeddings"], opening)
    if prompt is not None:
        dialogue.add_message(_question(prompt))
    _note(f"loading {model} on {place}")
    wanted = getattr(torch, dtype) if dtype else torch.float32 if place == "cpu" else None
    glm: Any = load_model(model, wanted).to(place)
    if prompt is None:
        _converse(dialogue, glm)
    elif _answer(dialogue, glm) == "interrupted":
        raise KeyboardInterrupt
    return dialogue.messages


def _opening(system: str | None, tools: list[dict[str, Any]]) -> list[Message]:
    if tools:
        return [{"role": "system", "content": TOOL_PROMPT if system is None else system, "tools": tools}]
    return [] if system is None else [{"role": "system", "content": system}]


def _read_tools(path: Path) -> list[dict[str, Any]]:
    try:
        tools = parse_json(path.read_text(encoding="utf-8"), f"--tools {path}")
    except UnicodeDecodeError as error:
        raise ValueError(f"--tools {path}: not UTF-8 ({error})") from error
    named = isinstance(tools, list) and all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in tools)
    if not named or not tools:
        raise ValueError(
            f'--tools {path}: not a list of tools, as in [{{"name": …, "description": …, "parameters": …}}]'
        )
    return tools


def _question(prompt: str) -> str:
    question = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    if not question.strip():
        raise ValueError("--prompt is empty; leave it out to talk line by line")
    return question


def _converse(dialogue: Dialogue, model: GlmForCausalLM) -> None:
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        with suppress(ImportError):  # not on every machine; it makes input() editable
            importlib.import_module("readline")
        _note("/help lists what a line can be")
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            label = f"{printable(dialogue.called_tool or '')}> " if at_terminal else ""
            line = input(label)
            try:
                _take(line, dialogue, model)
            except ValueError as error:
                flags = {name: f"--{name}" for name in inspect.signature(chat).parameters}
                _note(with_flags(str(error), flags))


def _take(line: str, dialogue: Dialogue, model: GlmForCausalLM) -> None:
    """Does what a line of the user asks for.

    Raises:
        ValueError: If it cannot be done.
        EOFError: If the user leaves.
    """
    word, _, rest = line.strip().partition(" ")
    if word in _COMMANDS:
        _obey(word, rest.strip(), dialogue)
    elif word[:1] == "/" and word[1:].isalpha():
        raise ValueError(f"no command {word}; /help lists them")
    elif word:
        if left_out := dialogue.add_message(line):
            _note(f"left out to make room: the oldest {left_out} turn{'s' * (left_out > 1)}")
        _answer(dialogue, model)
        if dialogue.called_tool:
            _note(f"the assistant calls {dialogue.called_tool}; the next line is what it answers")


def _obey(command: str, text: str, dialogue: Dialogue) -> None:
    match command:
        case "/exit":
            raise EOFError
        case "/help":
            _note(_HELP)
        case "/show":
            Console().print(dialogue.show(), soft_wrap=True)
        case "/reset":
            dialogue.restart(dialogue.opening)
            _note("a new conversation")
        case "/system":
            tools = dialogue.opening[0].get("tools") if dialogue.opening else None
            dialogue.restart(_opening(text or None, tools or []))
            _note("a new conversation")


def _answer(dialogue: Dialogue, model: GlmForCausalLM) -> Ending:
    ending = dialogue.answer(model, _say)
    print(flush=True)
    if ending != "ended":
        _note("stopped" if ending == "interrupted" else "stopped after --max_new_tokens")
    return ending


def _say(text: str) -> None:
    """Without what acts on a terminal; but code needs its tabs."""
    print("\t".join(map(printable, text.split("\t"))), end="", flush=True)


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def main(args: list[str] | None = None) -> list[Message]:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may have few characters
    try:
        return run_command(chat, args)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


if __name__ == "__main__":
    main()
