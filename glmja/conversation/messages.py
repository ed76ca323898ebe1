"""Messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict, get_args

from glmja.tokenization.tokenizer import Role

Tool = dict[str, Any]  # JSON: a name, and what the model should know about the tool


def tool_name(tool: Tool) -> str | None:
    """Returns the name of a tool in ChatGLM3's form, or in OpenAI's, where it is the function's."""
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


class Message(TypedDict):
    """One message of a conversation. Optional keys may be None, as in a table.

    An assistant's `metadata` is the name of the tool that its content calls. `tools` belongs to the system message and
    lists the tools that the assistant may call. An assistant's message whose `loss` is False is not trained on.
    """

    role: Role
    content: str
    metadata: NotRequired[str | None]
    tools: NotRequired[list[Tool] | None]
    loss: NotRequired[bool | None]


def check_messages(messages: Sequence[Message]) -> None:
    """Checks the roles and texts of a conversation.

    Args:
        messages: The conversation.

    Raises:
        ValueError: If there is no message, a role is unknown, a system message is not the first, a message other than
            the system message has `tools`, a content or metadata is not a string, or a `loss` not a truth value.
    """
    if not messages:
        raise ValueError("the conversation has no messages")
    for i, message in enumerate(messages):
        role = message.get("role")
        if role not in get_args(Role):
            raise ValueError(f"message {i} has the role {role!r}; it must be one of {', '.join(get_args(Role))}")
        if role == "system" and i > 0:
            raise ValueError(f"message {i} is a system message; only the first message can be one")
        if message.get("tools") and role != "system":
            raise ValueError(f"message {i} ({role}) lists tools; only a system message can")
        for key, text in (("content", message.get("content")), ("metadata", message.get("metadata") or "")):
            if not isinstance(text, str):
                raise ValueError(f"message {i} ({role}): {key!r} is not a string: {text!r}")
        if message.get("loss") not in (None, False, True):
            raise ValueError(f"message {i} ({role}): 'loss' is {message['loss']!r}; true or false")


def has_tools(messages: Sequence[Message]) -> bool:
    """Returns whether the assistant may call a tool: one is listed, or was called before."""
    return any(m.get("tools") or m.get("metadata") or m["role"] == "observation" for m in messages)


def without_oldest_turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yields all messages, then all but the oldest turn, and so on until only the last turn is left.

    A turn extends from a user's message to the next one's. A system message is always kept.
    """
    yield list(messages)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in turns[1:]:
        yield [*system, *messages[start:]]
