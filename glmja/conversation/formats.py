"""Conversion of records of chat datasets to conversations.

Six formats are supported: ChatGLM3's and OpenAI's `messages`, ShareGPT's `conversations` (from, value), the
`conversations` (role, content) of ChatGLM3's own fine-tuning code, Alpaca's `instruction` with `output`, ptuning's
`prompt` with `response`, and AdvertiseGen's `content` with `summary`. A key with the value None counts as absent, as in
a table. A record is accepted as a whole or rejected with a reason that can be counted; nothing is repaired. Keys that
say whether a message is trained on (`loss`, `weight`, `train`, …) are honoured; keys that no format knows are named.

ChatGLM3's own code (see `glmja.conversation.tool_calls`) gives the same ids and the same loss mask, with three
exceptions: `tools` stand in the system message of the conversation instead of a second one; text that ends with a user
is cut there, instead of getting an end of text; and the results of tools are never trained on, whatever their role is
called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from glmja.conversation.messages import Message
from glmja.conversation.record_fields import BadConversation, Fields, Reason, parse_value
from glmja.conversation.tool_calls import Turn, call, call_of, one_after_the_other, tools_of, with_tools
from glmja.tokenization.tokenizer import Role

ChatFormat = Literal["messages", "sharegpt", "chatglm3", "alpaca", "prompt_response", "adgen"]

# The keys that a record of each format has at least, and those that `columns` may rename besides.
KEYS: dict[ChatFormat, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "messages": (("messages",), ("role", "content", "metadata", "loss", "tools", "tool_calls")),
    "sharegpt": (("conversations",), ("from", "value", "loss", "system", "tools")),
    "chatglm3": (("conversations",), ("role", "content", "name", "parameters", "observation", "loss", "tools")),
    "alpaca": (("instruction", "output"), ("input", "history", "system")),
    "prompt_response": (("prompt", "response"), ("history", "system")),
    "adgen": (("content", "summary"), ()),
}

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {
    "developer": "system", "tool": "observation", "function": "observation"
}  # fmt: skip
_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatglm": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "observation": "observation", "tool": "observation",
    "function_call": "assistant",
}  # fmt: skip
_CHATGLM3_ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {"tool": "assistant"}
_OTHER_FORMAT = ("missing key", "wrong type", "unknown role")  # reasons that another format may explain


class Conversation(NamedTuple):
    """A record as a conversation."""

    messages: list[Message]
    unknown_keys: list[str]  # of the record, which have no effect


def to_messages(record: Any, chat_format: ChatFormat, columns: Mapping[str, str] | None = None) -> list[Message]:
    """Converts a record to a conversation; arguments and errors as `read_conversation`."""
    return read_conversation(record, chat_format, columns).messages


def read_conversation(record: Any, chat_format: ChatFormat, columns: Mapping[str, str] | None = None) -> Conversation:
    """Converts a record to a conversation.

    Args:
        record: A parsed line of JSON, or a row of a table.
        chat_format: Format of the record, with its keys (optional ones in brackets). messages: `messages` of `role`
            and `content` [`metadata`, `tools`, `tool_calls`] [`tools`]. sharegpt: `conversations` of `from` and
            `value` [`system`, `tools`]. chatglm3: `conversations` of `role` and `content`, or of `role` tool with
            `name`, `parameters` and `observation` [`loss`] [`tools`]. alpaca: `instruction`, `output` [`input`,
            `history` (pairs), `system`]. prompt_response: `prompt`, `response` [`history`, `system`]. adgen:
            `content`, `summary`.
        columns: The names that the record has for keys of its format, if they differ.

    Raises:
        BadConversation: If a key is missing, a value has the wrong type, a role is unknown, tools or tool calls
            cannot be parsed, or a text is not valid Unicode. The message names a format that fits, if one does.
    """
    try:
        return _read(record, chat_format, columns or {})
    except BadConversation as error:
        other = _other_format(record, chat_format) if error.reason in _OTHER_FORMAT else None
        if other:
            raise BadConversation(error.reason, f"{error.detail}; set `format` to {other}, which fits") from None
        raise


def format_of(record: Any) -> ChatFormat | None:
    """Returns the format whose keys a record has, or None if it has those of none."""
    found = [name for name, value in record.items() if value is not None] if isinstance(record, Mapping) else []
    candidates = [name for name, (required, _) in KEYS.items() if set(required) <= set(found)]
    return next((name for name in candidates if _fits(record, name)), next(iter(candidates), None))


def _read(record: Any, chat_format: ChatFormat, columns: Mapping[str, str]) -> Conversation:
    fields = Fields(record, columns)
    messages = _READERS[chat_format](fields)
    try:
        json.dumps(messages, ensure_ascii=False).encode()  # as tools are rendered
    except UnicodeEncodeError as error:
        detail = f"{error.object[error.start]!a} is not a character"
        raise BadConversation("lone surrogate", detail) from None
    except TypeError as error:
        raise BadConversation("unreadable tools", str(error)) from None
    _check_weight(fields)
    return Conversation(messages, fields.unread())


def _other_format(record: Any, chat_format: ChatFormat) -> ChatFormat | None:
    """Returns another format that fits, if only but for the names of the roles."""
    others: list[ChatFormat] = [other for other in get_args(ChatFormat) if other != chat_format]
    whole = (other for other in others if _fits(record, other))
    return next(whole, None) or next((other for other in others if _fits(record, other, but="unknown role")), None)


def _fits(record: Any, chat_format: ChatFormat, but: Reason | None = None) -> bool:
    """Returns whether a record can be read in a format, but for errors of one category."""
    try:
        return bool(_read(record, chat_format, {}).messages)
    except BadConversation as error:
        return error.reason == but


def _check_weight(fields: Fields) -> None:
    """Refuses records with a weight of their own; text of that name is data, as in a table of products."""
    for key in ("weight", "loss", "train", "trainable"):
        value = fields.peek(key)
        if isinstance(value, bool) or (key == "weight" and isinstance(value, int | float)):
            if value != 1:
                detail = f"the record has {key!r}: {value}; leave the record out, or set the `weight` of its source"
                raise BadConversation("unreadable weight", detail)
            fields.raw(key)


def _messages(record: Fields) -> list[Message]:
    turns = [turn for item in record.each("messages") for turn in _turns(item)]
    return with_tools(one_after_the_other(turns), record)


def _turns(item: Fields) -> list[Turn]:
    """Returns one message, and one for each tool that it calls (OpenAI)."""
    role = item.role("role", _ROLES)
    calls = [item.object(made, f"{item.where}.tool_calls") for made in item.get("tool_calls", list, default=[])]
    called = [Turn(call_of(_function(made)), call_id=made.get("id", str, default="")) for made in calls]
    if function := item.get("function_call", dict, default={}):  # OpenAI's form before `tool_calls`
        called.append(Turn(call_of(item.object(function, item.where))))
    message: Message = {"role": role, "content": item.get("content", str, default="" if called else None)}
    if metadata := item.get("metadata", str, default=""):
        message["metadata"] = metadata
    if tools := tools_of(item):
        if role != "system":
            raise BadConversation("unreadable tools", f"{item.where} is {role}; only a system message can list tools")
        message["tools"] = tools
    if called and role != "assistant":
        raise BadConversation("unreadable call", f"{item.where} is {role}; only the assistant can call tools")
    turn = _result(message, item) if role == "observation" else Turn(message)
    turns = [turn, *called] if message["content"].strip() or not called else called
    return turns if item.is_target(role) else [_without_loss(turn) for turn in turns]


def _function(made: Fields) -> Fields:
    made.raw("type")
    return made.object(made.get("function", dict), made.where)


def _result(message: Message, item: Fields) -> Turn:
    return Turn(message, item.get("tool_call_id", str, default=""), item.get("name", str, default=""))


def _without_loss(turn: Turn) -> Turn:
    if turn.message["role"] != "assistant":
        return turn
    return Turn({**turn.message, "loss": False}, turn.call_id, turn.tool)


def _sharegpt(record: Fields) -> list[Message]:
    turns = [turn for item in record.each("conversations") for turn in _sharegpt_turns(item)]
    messages = one_after_the_other(turns)
    system = _system(record)
    return with_tools(messages if messages and messages[0]["role"] == "system" else [*system, *messages], record)


def _sharegpt_turns(item: Fields) -> list[Turn]:
    role, value = item.role("from", _SHAREGPT_ROLES), item.get("value", str)
    if item.raw("from") == "function_call":
        made = parse_value(value, "unreadable call", item.where)
        functions = made if isinstance(made, list) and made else [made]
        turns = [Turn(call_of(item.object(function, item.where))) for function in functions]
    else:
        turns = [Turn({"role": role, "content": value})]
    return turns if item.is_target(role) else [_without_loss(turn) for turn in turns]


def _chatglm3(record: Fields) -> list[Message]:
    turns = [turn for item in record.each("conversations") for turn in _chatglm3_turns(item)]
    return with_tools(one_after_the_other(turns), record)


def _chatglm3_turns(item: Fields) -> list[Turn]:
    """Returns a message, or for a tool its call and its result."""
    role = item.role("role", _CHATGLM3_ROLES)
    if item.raw("role") == "tool":
        observation = item.raw("observation")
        if observation is None:
            item.get("observation", str)
        if not isinstance(observation, str):
            observation = _json_text(observation)
        turns = [
            Turn(call(item.get("name", str), item.raw("parameters"), item.where)),
            Turn({"role": "observation", "content": observation}),
        ]
    else:
        turns = [Turn({"role": role, "content": item.get("content", str)})]
    return turns if item.is_target(role, forced=True) else [_without_loss(turn) for turn in turns]


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise BadConversation("unreadable call", str(error)) from None


def _alpaca(record: Fields) -> list[Message]:
    question, context = record.get("instruction", str), record.get("input", str, default="")
    question = f"{question}\n{context}" if context else question
    return [*_system(record), *_history(record), *_exchange(question, record.get("output", str))]


def _prompt_response(record: Fields) -> list[Message]:
    exchange = _exchange(record.get("prompt", str), record.get("response", str))
    return [*_system(record), *_history(record), *exchange]


def _adgen(record: Fields) -> list[Message]:
    return _exchange(record.get("content", str), record.get("summary", str))


_READERS: dict[ChatFormat, Callable[[Fields], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "chatglm3": _chatglm3,
    "alpaca": _alpaca,
    "prompt_response": _prompt_response,
    "adgen": _adgen,
}


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _history(record: Fields) -> list[Message]:
    messages: list[Message] = []
    for i, pair in enumerate(record.get("history", list, default=[])):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise BadConversation("wrong type", f"history[{i}] is not a pair of strings")
        messages += _exchange(*pair)
    return messages


def _system(record: Fields) -> list[Message]:
    content = record.get("system", str, default="")
    return [{"role": "system", "content": content}] if content else []
