"""Messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict, get_args

from glmja.tokenization.tokenizer import Role

Tool = dict[str, Any]  # JSON: a name, and what the model should know about the tool


class Message(TypedDict):
    """One message of a conversation. Optional keys may be None, as in a table.

    An assistant's `metadata` is the name of the tool that its content calls. `tools` belongs to the system message and
    lists the tools that the assistant may call.
    """

    role: Role
    content: str
    metadata: NotRequired[str | None]
    tools: NotRequired[list[Tool] | None]


def check_messages(messages: Sequence[Message]) -> None:
    """Checks the roles and texts of a conversation.

    Args:
        messages: The conversation.

    Raises:
        ValueError: If there is no message, a role is unknown, a system message is not the first, a message other than
            the system message has `tools`, or a content or metadata is not a string.
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


def without_oldest_turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yields all messages, then all but the oldest turn, and so on until only the last turn is left.

    A turn extends from a user's message to the next one's. A system message is always kept.
    """
    yield list(messages)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in turns[1:]:
        yield [*system, *messages[start:]]
