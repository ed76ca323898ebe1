"""Checks that conversations can be trained on, and selects the answers to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from glmja.conversation.messages import Message
from glmja.conversation.record_fields import BadConversation
from glmja.tokenization.tokenizer import Role

Learn = Literal["all", "last"]

_MAY_FOLLOW: dict[Role | None, set[Role]] = {
    None: {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "observation"},
    "observation": {"assistant"},
}


def check_turns(messages: Sequence[Message]) -> None:
    """Checks that a conversation can be trained on: the order of turns is ChatGLM3's, and no answer is empty.

    An optional system message comes first, then a user. The assistant answers users and observations. An assistant's
    message may be followed by an observation, or by a tool call if it is none itself; no other role comes twice in a
    row.

    Args:
        messages: Messages from `glmja.conversation.formats.to_messages`.

    Raises:
        BadConversation: If the turns are in another order, an answer is empty or missing, or all are excluded from
            training.
    """
    before: Role | None = None
    after_call = False
    for i, message in enumerate(messages):
        role, calls = message["role"], message["role"] == "assistant" and bool(message.get("metadata"))
        if role not in _MAY_FOLLOW[before] and not (calls and before == "assistant" and not after_call):
            allowed = " or ".join(sorted(_MAY_FOLLOW[before]))
            raise BadConversation("turn order", f"message {i} is {role} after {before or 'nothing'}, not {allowed}")
        if role == "assistant" and not message["content"].strip():
            raise BadConversation("empty answer", f"message {i}")
        before, after_call = role, calls
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise BadConversation("no answer", f"{len(messages)} messages, none from the assistant")
    if all(answer.get("loss") is False for answer in answers):
        raise BadConversation("nothing to learn", "every message of the assistant is excluded from training")


def without_unanswered(messages: Sequence[Message]) -> list[Message]:
    """Returns the conversation up to the assistant's last message, or an empty list if there is none."""
    spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return list(messages[: spoken[-1] + 1]) if spoken else []


def learning(messages: Sequence[Message], learn: Learn) -> list[Message]:
    """Excludes answers from the loss.

    Args:
        messages: The conversation.
        learn: `all` leaves the conversation as it is; `last` excludes all that the assistant says before the user's
            last message.
    """
    start = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    if learn == "all":
        return list(messages)
    return [
        {**message, "loss": False} if i < start and message["role"] == "assistant" else message
        for i, message in enumerate(messages)
    ]
