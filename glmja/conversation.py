"""Conversations as ids; the only place that knows ChatGLM3's chat format.

`[gMASK] <sop>`, then for each message `<|role|>`, its metadata and a line feed, its content.
Each part is encoded by itself, and control tokens are ids, never text: what a user types
can not open a turn. Source of the format: ChatGLM3's PROMPT.md and `build_single_message`,
https://github.com/THUDM/ChatGLM3/blob/main/PROMPT_en.md; equality with the ids of its own
tokenizer is tested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, get_args

from rich.text import Text

from glmja.tokenizer import GLMTokenizer, Role


class Message(TypedDict):
    """One message; optional keys may be None, as in a table.

    An assistant's `metadata` is the name of the tool that its content calls.
    """

    role: Role
    content: str
    metadata: NotRequired[str | None]
    tools: NotRequired[list[dict[str, Any]] | None]  # a system message lists the tools that the assistant may call


def check(messages: Sequence[Message]) -> None:
    """Checks the roles and texts of a conversation.

    Raises:
        ValueError: If there is no message, a role is unknown, a system message is not the first, `tools`
            stand elsewhere than in a system message, or a content or metadata is not text.
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
                raise ValueError(f"message {i} ({role}) has no text as {key!r}: {text!r}")


def render(messages: Sequence[Message], tokenizer: GLMTokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each id whether the model must learn to say it.

    Learnt is what the assistant says after its role token, the metadata line included, and the
    token that ends its turn: the next role token, or the end of the text.

    Raises:
        ValueError: As `check`.
    """
    check(messages)
    ids = tokenizer.prefix_ids
    learnt, spoke = [False] * len(ids), False
    for message in messages:
        body = _body_ids(message, tokenizer)
        speaks = message["role"] == "assistant"
        ids += [tokenizer.role_id(message["role"]), *body]
        learnt += [spoke, *[speaks] * len(body)]
        spoke = speaks
    if spoke:
        ids, learnt = [*ids, tokenizer.eos_id], [*learnt, True]
    return ids, learnt


def render_within(
    messages: Sequence[Message], tokenizer: GLMTokenizer, max_len: int
) -> tuple[list[int], list[bool], bool]:
    """As `render`, but at most `max_len` ids.

    The oldest turns go first: whole turns, each from a user's message to the next one's. A system message stays. If
    the last turn alone is too long, its end is cut off; what is left may hold nothing to learn.

    Returns:
        Ids, which of them are learnt, and whether anything was left out.

    Raises:
        ValueError: As `check`.
    """
    ids, learnt = render(messages, tokenizer)
    system = list(messages[:1]) if messages[0]["role"] == "system" else []
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in turns[1:]:
        if len(ids) <= max_len:
            return ids, learnt, start > turns[1]
        ids, learnt = render([*system, *messages[start:]], tokenizer)
    return ids[:max_len], learnt[:max_len], len(turns) > 1 or len(ids) > max_len


def render_prompt(messages: Sequence[Message], tokenizer: GLMTokenizer) -> list[int]:
    """Ids after which the model writes the assistant's next message.

    Raises:
        ValueError: As `check`.
    """
    check(messages)
    ids = tokenizer.prefix_ids
    for message in messages:
        ids += [tokenizer.role_id(message["role"]), *_body_ids(message, tokenizer)]
    return [*ids, tokenizer.role_id("assistant")]


def has_roles(tokenizer: GLMTokenizer) -> bool:
    """Whether the tokenizer has the control tokens of this format; ChatGLM2's has not."""
    return all(f"<|{role}|>" in tokenizer.control_tokens for role in get_args(Role))


def question_ids(text: str, tokenizer: GLMTokenizer) -> list[int]:
    """Ids after which the model answers a user's text, or goes on with it if it knows no roles."""
    if has_roles(tokenizer):
        return render_prompt([{"role": "user", "content": text}], tokenizer)
    return [*tokenizer.prefix_ids, *tokenizer.encode(text)]


def _body_ids(message: Message, tokenizer: GLMTokenizer) -> list[int]:
    content = message["content"]
    if message.get("tools"):
        content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
    return tokenizer.encode(f"{message.get('metadata') or ''}\n") + tokenizer.encode(content)


def show(ids: Sequence[int], learnt: Sequence[bool], tokenizer: GLMTokenizer) -> Text:
    """The ids as coloured text: learnt ones green, control tokens bold, token borders by shade.

    Raises:
        ValueError: If `ids` and `learnt` are not of one length.
    """
    if len(ids) != len(learnt):
        raise ValueError(f"{len(ids)} ids but {len(learnt)} learnt flags")
    control, text = set(tokenizer.control_tokens.values()), Text()
    for position, (token_id, is_learnt) in enumerate(zip(ids, learnt, strict=True)):
        colour = ("green", "bright_green") if is_learnt else ("white", "bright_black")
        style = colour[position % 2] + (" bold" if token_id in control else "")
        text.append(tokenizer.piece(token_id).replace("\u2581", " "), style=style)
    return text
