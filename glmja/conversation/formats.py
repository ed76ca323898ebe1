"""Conversion of records of chat datasets to conversations.

Four formats are supported: ChatGLM3's and OpenAI's `messages`, ShareGPT's `conversations`, Alpaca's `instruction` with
`output`, and AdvertiseGen's `content` with `summary`. A key with the value None counts as absent, as in a table. A
record is accepted as a whole or rejected with a reason that can be counted; nothing is repaired, and unknown keys are
ignored.

Tool calls are written as in ChatGLM3's training data: the name as metadata, the arguments as Python, and the tools
listed after a fixed sentence in the system message. Sources:
https://github.com/THUDM/ChatGLM3/blob/1d2746af2102e2243f83461a6c4afd881d00c032/PROMPT_en.md and
https://github.com/THUDM/ChatGLM3/blob/174470a39343647e2780f8fd9d0edbf4786cdb23/finetune_chatmodel_demo/preprocess_utils.py
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from glmja.conversation.messages import Message, Tool
from glmja.errors import DataError
from glmja.tokenization.tokenizer import Role

ChatFormat = Literal["messages", "sharegpt", "alpaca", "adgen"]
Reason = Literal[
    "missing key", "wrong type", "unknown role", "unreadable tools", "unreadable call",
    "lone surrogate", "turn order", "empty answer", "no answer",
]  # fmt: skip

TOOL_PROMPT = "Answer the following questions as best as you can. You have access to the following tools:"

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {"tool": "observation"}
_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatglm": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "observation": "observation", "tool": "observation",
    "function_call": "assistant",
}  # fmt: skip
_MAY_FOLLOW: dict[Role | None, set[Role]] = {
    None: {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "observation"},
    "observation": {"assistant"},
}


class BadConversation(DataError):
    """Raised for a record that is not a conversation, or not one to train on.

    Attributes:
        reason: Category of the error, for counting; the message adds the place and the value.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """Builds the message from reason and detail.

        Args:
            reason: Category of the error.
            detail: Place in the record, and the value found there.
        """
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def to_messages(record: Any, chat_format: ChatFormat) -> list[Message]:
    """Converts a record to a conversation.

    Args:
        record: A parsed line of JSON, or a row of a table.
        chat_format: Format of the record, with its keys (optional ones in brackets). messages: `messages` of `role`
            and `content` [`metadata`, `tools`, `tool_calls`] [`tools`]. sharegpt: `conversations` of `from` and
            `value` [`system`, `tools`]. alpaca: `instruction`, `output` [`input`, `history` (pairs), `system`].
            adgen: `content`, `summary`.

    Raises:
        BadConversation: If a key is missing, a value has the wrong type, a role is unknown, tools or tool calls
            cannot be parsed, or a text is not valid Unicode.
    """
    messages = _READERS[chat_format](record)
    try:
        json.dumps(messages, ensure_ascii=False).encode()  # as tools are rendered
    except UnicodeEncodeError as error:
        detail = f"{error.object[error.start]!a} is not a character"
        raise BadConversation("lone surrogate", detail) from None
    except TypeError as error:
        raise BadConversation("unreadable tools", str(error)) from None
    return messages


def check_turns(messages: Sequence[Message]) -> None:
    """Checks that a conversation can be trained on: the order of turns is ChatGLM3's, and no answer is empty.

    An optional system message comes first, then a user. The assistant answers users and observations. An assistant's
    message may be followed by an observation or a tool call; no other role comes twice in a row.

    Args:
        messages: Messages from `to_messages`.

    Raises:
        BadConversation: If the turns are in another order, or an answer is empty or missing.
    """
    before: Role | None = None
    for i, message in enumerate(messages):
        role, calls = message["role"], message["role"] == "assistant" and bool(message.get("metadata"))
        if role not in _MAY_FOLLOW[before] and not (calls and before == "assistant"):
            allowed = " or ".join(sorted(_MAY_FOLLOW[before]))
            raise BadConversation("turn order", f"message {i} is {role} after {before or 'nothing'}, not {allowed}")
        if role == "assistant" and not message["content"].strip():
            raise BadConversation("empty answer", f"message {i}")
        before = role
    if all(message["role"] != "assistant" for message in messages):
        raise BadConversation("no answer", f"{len(messages)} messages, none from the assistant")


def without_unanswered(messages: Sequence[Message]) -> list[Message]:
    """Returns the conversation up to the assistant's last message, or an empty list if there is none."""
    spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return list(messages[: spoken[-1] + 1]) if spoken else []


def _messages(record: Any) -> list[Message]:
    items = _get(record, "messages", list)
    return _with_tools([m for i, item in enumerate(items) for m in _turn(item, f"messages[{i}]")], record)


def _turn(item: Any, where: str) -> list[Message]:
    """Returns one message, and one for each of its `tool_calls` (OpenAI)."""
    role = _role(item, "role", _ROLES, where)
    calls = _get(item, "tool_calls", list, where, default=[])
    message = _message(role, _get(item, "content", str, where, default="" if calls else None))
    if metadata := _get(item, "metadata", str, where, default=""):
        message["metadata"] = metadata
    if tools := _tools(item, where):
        if role != "system":
            raise BadConversation("unreadable tools", f"{where} is {role}; only a system message can list tools")
        message["tools"] = tools
    if calls and role != "assistant":
        raise BadConversation("unreadable call", f"{where} is {role}; only the assistant can call tools")
    called = [_call(_get(call, "function", dict, f"{where}.tool_calls"), where) for call in calls]
    return [message, *called] if message["content"].strip() or not called else called


def _sharegpt(record: Any) -> list[Message]:
    items = _get(record, "conversations", list)
    messages = [_sharegpt_turn(item, f"conversations[{i}]") for i, item in enumerate(items)]
    if not messages or messages[0]["role"] != "system":
        messages = [*_system(record), *messages]
    return _with_tools(messages, record)


def _sharegpt_turn(item: Any, where: str) -> Message:
    role, value = _role(item, "from", _SHAREGPT_ROLES, where), _get(item, "value", str, where)
    if item["from"] == "function_call":
        return _call(_json(value, "unreadable call", where), where)
    return _message(role, value)


def _alpaca(record: Any) -> list[Message]:
    question, context = _get(record, "instruction", str), _get(record, "input", str, default="")
    messages = _system(record)
    for i, pair in enumerate(_get(record, "history", list, default=[])):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise BadConversation("wrong type", f"history[{i}] is not a pair of strings")
        messages += _exchange(*pair)
    return [*messages, *_exchange(f"{question}\n{context}" if context else question, _get(record, "output", str))]


def _adgen(record: Any) -> list[Message]:
    return _exchange(_get(record, "content", str), _get(record, "summary", str))


_READERS: dict[ChatFormat, Callable[[Any], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "adgen": _adgen,
}


def _message(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def _exchange(question: str, answer: str) -> list[Message]:
    return [_message("user", question), _message("assistant", answer)]


def _system(record: Any) -> list[Message]:
    content = _get(record, "system", str, default="")
    return [_message("system", content)] if content else []


def _call(function: Any, where: str) -> Message:
    """Returns a tool call in ChatGLM3's form; `arguments` is an object or its JSON text."""
    name, arguments = _get(function, "name", str, where), function.get("arguments")
    arguments = _json(arguments, "unreadable call", where) if isinstance(arguments, str) else arguments
    if not (name and isinstance(arguments, dict) and all(key.isidentifier() for key in arguments)):
        found = f"{reprlib.repr(name)} with {reprlib.repr(arguments)}"
        raise BadConversation("unreadable call", f"{where} calls {found}; a call needs a name and keyword arguments")
    arguments_text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {"role": "assistant", "metadata": name, "content": f"```python\ntool_call({arguments_text})\n```"}


def _with_tools(messages: list[Message], record: Any) -> list[Message]:
    tools = _tools(record, "the record")
    if not tools:
        return messages
    if not messages or messages[0]["role"] != "system":
        messages = [_message("system", TOOL_PROMPT), *messages]
    if messages[0].get("tools"):
        raise BadConversation("unreadable tools", "both the record and its system message list tools")
    return [{**messages[0], "tools": tools}, *messages[1:]]


def _tools(holder: Any, where: str) -> list[Tool]:
    """Returns the list under `tools`, which may be JSON text."""
    tools = holder.get("tools") or []
    tools = _json(tools, "unreadable tools", where) if isinstance(tools, str) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadConversation("unreadable tools", f"{where} has `tools` that are not a list of objects")
    return tools


def _json(text: str, reason: Reason, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConversation(reason, f"{where} has {reprlib.repr(text)}, not JSON: {error}") from None


def _role(item: Any, key: str, roles: Mapping[str, Role], where: str) -> Role:
    name = _get(item, key, str, where)
    if name not in roles:
        raise BadConversation("unknown role", f"{where} is {reprlib.repr(name)}; known are {', '.join(roles)}")
    return roles[name]


def _get(holder: Any, key: str, kind: type, where: str = "the record", default: Any = None) -> Any:
    """Returns the value of a key, which is required if there is no default."""
    if not isinstance(holder, Mapping):
        raise BadConversation("wrong type", f"{where} is {type(holder).__name__}, not an object")
    value = default if holder.get(key) is None else holder[key]
    if value is None:
        found = reprlib.repr([name for name, held in holder.items() if held is not None])
        raise BadConversation("missing key", f"{where} has no {key!r}; found {found}")
    if not isinstance(value, kind):
        raise BadConversation("wrong type", f"{where} has {type(value).__name__} as {key!r}, not {kind.__name__}")
    return value
