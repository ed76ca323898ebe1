"""`python -m glmja.chat`: an interactive conversation with a model, or one answer for a script.

Text of the model is not trusted: control characters are replaced with � and nothing is interpreted as markup. Answers
go to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import math
import sys
import time
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmja.cli.arguments import check_device
from glmja.cli.command import run_command, with_flags
from glmja.conversation.messages import Message, Tool, tool_name
from glmja.families.names import FamilyName, PromptFormat
from glmja.files.encodings import check_utf8
from glmja.files.json_files import parse_json
from glmja.modeling.sampling import Sampling
from glmja.text.printable import printable
from glmja.text.terminal import show
from glmja.tokenization.chat_template import TOOL_PROMPT
from glmja.weights.options import DtypeName

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from glmja.conversation.dialogue import Dialogue, FinishReason

_HELP = """\
/retry           answer the last message again
/temperature T   sample with this temperature from now on; without T, show it
/save FILE       save the conversation as a line of JSON
/reset           start a new conversation
/system TEXT     start a new conversation with this system message, or with none if TEXT is left out
/show            show the tokens of the last prompt, and those of the answer in green
/help            show this list
/exit            leave, like Ctrl-D; Ctrl-C stops an answer"""
_COMMANDS = [line.split()[0] for line in _HELP.splitlines()]


def chat(
    model: str,
    system: str | None = None,
    prompt: str | None = None,
    tools: str | None = None,
    format: PromptFormat | None = None,
    family: FamilyName | None = None,
    device: str = "auto",
    dtype: DtypeName | None = None,
    max_new_tokens: int = 512,
    do_sample: bool = True,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> list[Message]:
    """Chats with a model interactively, one message per line; /help lists the commands.

    Args:
        model: Folder of the model, in ChatGLM's layout or transformers'.
        system: System message at the beginning of the conversation.
        prompt: A single question; only its answer is written to stdout. `-` reads the question from stdin.
        tools: JSON file with a list of tools that the assistant may call, each an object with a `name`, as for
            ChatGLM3, or with such a `function`, as for OpenAI. When a tool is called, its result is read from the next
            line.
        format: Format of the prompts: `chatglm3`, or the numbered rounds of `chatglm2` or `chatglm`; by default that of
            the model's family.
        family: Family of the model, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by its files by
            default.
        device: Device to run on, such as cuda, cuda:1 or cpu; auto selects the first GPU if there is one.
        dtype: Dtype of the weights; by default as stored, but float32 on a CPU.
        max_new_tokens: Maximum tokens per answer.
        do_sample: Sample from the distribution; if false, take the most likely token each time (greedy decoding).
        temperature: Divisor of the logits before sampling; smaller values are closer to greedy decoding. By default
            that of the family's own code: 0.8, or 0.95 for ChatGLM-6B.
        top_p: Sample from the smallest set of tokens whose probabilities sum to at least this share. By default that of
            the family's own code: 0.8, or 0.7 for ChatGLM-6B.
        seed: Seed of the sampling; the same seed gives the same answers. Random by default.

    Returns:
        The conversation.

    Raises:
        ValueError: If a value is out of range, or the model, the tools or the prompt cannot be used.
        OSError: If a file does not exist.
    """
    from glmja.conversation.dialogue import Dialogue
    from glmja.modeling.loading import choose_dtype, load_model
    from glmja.modeling.model_folder import ModelFolder

    given = {name: value for name, value in (("temperature", temperature), ("top_p", top_p)) if value is not None}
    Sampling(max_new_tokens, do_sample, seed=seed, **given)  # checks the values, before files are read
    place = check_device(device)
    opening = _opening(system, _read_tools(Path(tools)) if tools else [])
    folder = ModelFolder.open(model, family)
    own = {"temperature": folder.family.temperature, "top_p": folder.family.top_p}
    sampling = Sampling(max_new_tokens, do_sample, seed=seed, **(own | given))
    dialogue = Dialogue(
        folder.tokenizer, format or folder.family.prompt_format, sampling, folder.max_positions, opening
    )
    if prompt is not None:
        dialogue.add_message(_question(prompt))
    _note(f"loading {model} on {place}")
    glm: Any = load_model(folder, choose_dtype(dtype, place)).to(place)
    if prompt is None:
        _converse(dialogue, glm)
    elif _answer(dialogue, glm) == "interrupted":
        raise KeyboardInterrupt
    return dialogue.messages


def _opening(system: str | None, tools: list[Tool]) -> list[Message]:
    if tools:
        return [{"role": "system", "content": TOOL_PROMPT if system is None else system, "tools": tools}]
    return [] if system is None else [{"role": "system", "content": system}]


def _read_tools(path: Path) -> list[Tool]:
    try:
        tools = parse_json(path.read_text(encoding="utf-8"), f"`tools` {path}")
    except UnicodeDecodeError as error:
        raise ValueError(f"`tools` {path}: not UTF-8 ({error})") from error
    named = isinstance(tools, list) and all(isinstance(tool, dict) and tool_name(tool) for tool in tools)
    if not named or not tools:
        raise ValueError(
            f'`tools` {path}: expected a list of tools, as in [{{"name": …, "description": …, "parameters": …}}] or '
            '[{"type": "function", "function": {"name": …}}]'
        )
    return tools


def _question(prompt: str) -> str:
    question = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    check_utf8("standard input" if prompt == "-" else "--prompt", question)
    if not question.strip():
        raise ValueError("`prompt` is empty; leave it out for an interactive chat")
    return question


def _converse(dialogue: Dialogue, model: PreTrainedModel) -> None:
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        _edit_lines()
        _note("/help lists the commands")
    start = time.monotonic()
    with suppress(EOFError, KeyboardInterrupt):
        for number in count(1):
            label = f"{printable(dialogue.called_tool or '')}> " if at_terminal else ""
            line = input(label)
            if not at_terminal:
                check_utf8("standard input", line, number)
            try:
                _handle(line, dialogue, model)
            except (ValueError, OSError) as error:
                flags = {name: f"--{name}" for name in inspect.signature(chat).parameters}
                _note(with_flags(str(error), flags))
    if messages := len(dialogue.messages) - len(dialogue.opening):
        duration = timedelta(seconds=round(time.monotonic() - start))
        _note(f"OK: {messages} messages, in {duration}; /save FILE keeps a conversation before you leave it")


def _handle(line: str, dialogue: Dialogue, model: PreTrainedModel) -> None:
    """Executes a command, or sends a message and prints the answer.

    Raises:
        ValueError: If the command is unknown or the message does not fit.
        EOFError: If the user leaves.
    """
    word, _, rest = line.strip().partition(" ")
    if word == "/retry":
        dialogue.retry()
        _reply(dialogue, model)
    elif word in _COMMANDS:
        _execute(word, rest.strip(), dialogue)
    elif word[:1] == "/" and word[1:].isalpha():
        raise ValueError(f"unknown command {word}; /help lists the commands")
    elif word:
        if num_dropped := dialogue.add_message(line):
            _note(f"dropped to make room: the oldest {num_dropped} turn{'s' * (num_dropped > 1)}")
        _reply(dialogue, model)


def _reply(dialogue: Dialogue, model: PreTrainedModel) -> None:
    _answer(dialogue, model)
    if dialogue.called_tool:
        _note(f"the assistant calls the tool {dialogue.called_tool}; enter its result")


def _edit_lines() -> None:
    """Makes the prompt editable like that of a shell: arrows, history, and Tab for the names of commands."""
    with suppress(ImportError):  # not on every platform
        readline: Any = importlib.import_module("readline")  # no types on Windows
        readline.set_completer(_complete)
        readline.set_completer_delims(" ")
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _complete(start: str, number: int) -> str | None:
    """Returns a command that begins with a text, as readline asks for them one by one."""
    found = [command for command in _COMMANDS if start and command.startswith(start)]
    return found[number] if number < len(found) else None


def _execute(command: str, text: str, dialogue: Dialogue) -> None:
    match command:
        case "/exit":
            raise EOFError
        case "/help":
            _note(_HELP)
        case "/show":
            show(dialogue.show())
        case "/temperature":
            if text:
                _set_temperature(text, dialogue)
            _note(f"temperature {dialogue.temperature}" if dialogue.temperature else "greedy decoding, no temperature")
        case "/save":
            _save(text, dialogue)
        case "/reset":
            dialogue.restart(dialogue.opening)
            _note("new conversation")
        case "/system":
            tools = dialogue.opening[0].get("tools") if dialogue.opening else None
            dialogue.restart(_opening(text or None, tools or []))
            _note("new conversation")


def _set_temperature(text: str, dialogue: Dialogue) -> None:
    if dialogue.temperature is None:
        raise ValueError("greedy decoding has no temperature; start the chat without --do_sample false to sample")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"/temperature {text}: not a number; write it as in /temperature 0.5") from None
    if not 0 < value < math.inf:
        raise ValueError(f"/temperature {text}: it must be above 0 and finite; write it as in /temperature 0.5")
    dialogue.temperature = value


def _save(name: str, dialogue: Dialogue) -> None:
    """Writes the conversation as a record that `fit` and `evaluate` read."""
    if not name or not dialogue.messages:
        raise ValueError(
            "nothing to save yet" if name else "/save needs the name of a new file, as in /save chat.jsonl"
        )
    path = Path(name).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps({"messages": dialogue.messages}, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise ValueError(f"{path} exists; choose another name") from None
    _note(f"saved {len(dialogue.messages)} messages in {path}")


def _answer(dialogue: Dialogue, model: PreTrainedModel) -> FinishReason:
    ending = dialogue.answer(model, _print)
    print(flush=True)
    if ending != "ended":
        _note("stopped" if ending == "interrupted" else "stopped at --max_new_tokens")
    return ending


def _print(text: str) -> None:
    """Prints text without control characters; tabs are kept, because code needs them."""
    print("\t".join(map(printable, text.split("\t"))), end="", flush=True)


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def main(args: list[str] | None = None) -> list[Message]:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal's encoding may lack characters
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what `check_utf8` expects
    return run_command(chat, args)


if __name__ == "__main__":
    main()
