"""Tool calls and their results, one after the other as ChatGLM3 makes them.

Calls are written as in ChatGLM3's training data: the name as metadata, the arguments as Python, and the tools listed
after a fixed sentence in the system message. Sources:
https://github.com/THUDM/ChatGLM3/blob/1d2746af2102e2243f83461a6c4afd881d00c032/PROMPT_en.md and
https://github.com/THUDM/ChatGLM3/blob/174470a39343647e2780f8fd9d0edbf4786cdb23/finetune_chatmodel_demo/preprocess_utils.py
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from glmja.conversation.messages import Message, Tool
from glmja.conversation.record_fields import BadConversation, Fields, parse_value
from glmja.tokenization.chat_template import TOOL_PROMPT


@dataclass(frozen=True)
class Turn:
    """A message of a record.

    Attributes:
        message: The message.
        call_id: Identifier of the call that the message makes, or whose result it is; empty if there is none.
        tool: Name of the tool whose result the message is; empty if the record does not say.
    """

    message: Message
    call_id: str = ""
    tool: str = ""


def call_of(function: Fields) -> Message:
    """Returns a tool call in ChatGLM3's form; `arguments` is an object or its JSON text.

    Raises:
        BadConversation: If the name is missing, or the arguments are no such object.
    """
    name, arguments = function.get("name", str), function.raw("arguments")
    if isinstance(arguments, str):
        arguments = parse_value(arguments, "unreadable call", function.where)
    return call(name, arguments, function.where)


def call(name: str, arguments: Any, where: str) -> Message:
    """Returns a tool call in ChatGLM3's form.

    Raises:
        BadConversation: If the name is empty, or the arguments are not an object whose keys are Python identifiers.
    """
    if not (name and isinstance(arguments, dict) and all(key.isidentifier() for key in arguments)):
        found = f"{reprlib.repr(name)} with {reprlib.repr(arguments)}"
        raise BadConversation("unreadable call", f"{where} calls {found}; a call needs a name and keyword arguments")
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {"role": "assistant", "metadata": name, "content": f"```python\ntool_call({text})\n```"}


def one_after_the_other(turns: Sequence[Turn]) -> list[Message]:
    """Moves the result of each call behind its call, where a record has several calls first and then their results.

    Results belong to the calls that their identifiers name; without identifiers, to the calls in the same order.

    Raises:
        BadConversation: If several calls in a row do not have one result each.
    """
    messages: list[Message] = []
    start = 0
    while start < len(turns):
        calls = list(takewhile(_is_call, turns[start:]))
        if len(calls) < 2:
            messages.append(turns[start].message)
            start += 1
            continue
        results = list(takewhile(_is_result, turns[start + len(calls) :]))
        for made, result in zip(calls, _in_order(calls, results), strict=True):
            messages += [made.message, result.message]
        start += len(calls) + len(results)
    return messages


def with_tools(messages: list[Message], record: Fields) -> list[Message]:
    """Lists the record's `tools`, or `functions`, in the system message, which is added if there is none.

    Raises:
        BadConversation: If the tools are not a list of objects, or the system message lists tools, too.
    """
    tools = tools_of(record, "tools") or tools_of(record, "functions")
    if not tools:
        return messages
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": TOOL_PROMPT}, *messages]
    if messages[0].get("tools"):
        raise BadConversation("unreadable tools", "both the record and its system message list tools")
    return [{**messages[0], "tools": tools}, *messages[1:]]


def tools_of(holder: Fields, key: str = "tools") -> list[Tool]:
    """Returns a list of tools, which may be JSON text.

    Raises:
        BadConversation: If the value is neither, or the list has other items than objects.
    """
    tools = holder.parsed(key, "unreadable tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadConversation("unreadable tools", f"{holder.where} has `{key}` that are not a list of objects")
    return tools


def _in_order(calls: Sequence[Turn], results: Sequence[Turn]) -> list[Turn]:
    """Returns the results in the order of their calls."""
    ordered, ids = list(results), [call.call_id for call in calls]
    if len(results) == len(calls) and all(result.call_id for result in results):
        by_id = {result.call_id: result for result in results}
        ordered = [by_id[call_id] for call_id in ids if call_id in by_id]
    if len(ordered) != len(calls) or len({id(result) for result in ordered}) != len(calls):
        raise BadConversation(
            "unanswered call",
            f"{len(calls)} calls in a row have {len(results)} results with the ids "
            f"{reprlib.repr([result.call_id for result in results])} for {reprlib.repr(ids)}; ChatGLM3 makes one call "
            "at a time, so each needs its result",
        )
    for made, result in zip(calls, ordered, strict=True):
        if result.tool and result.tool != made.message["metadata"]:
            found = f"the result of {reprlib.repr(result.tool)} answers a call of {made.message['metadata']!r}"
            raise BadConversation("unanswered call", f"{found}; give the results `tool_call_id`")
    return ordered


def _is_call(turn: Turn) -> bool:
    return turn.message["role"] == "assistant" and bool(turn.message.get("metadata"))


def _is_result(turn: Turn) -> bool:
    return turn.message["role"] == "observation"
