"""Conversations as ids; the only place that knows ChatGLM3's chat format, and those before it.

`[gMASK] <sop>`, then for each message `<|role|>`, its metadata and a line feed, its content.
Each part is encoded by itself, and control tokens are ids, never text: what a user types
can not open a turn. Source of the format: ChatGLM3's PROMPT.md and `build_single_message`,
https://github.com/THUDM/ChatGLM3/blob/main/PROMPT_en.md; equality with the ids of its own
tokenizer is tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NotRequired, TypedDict, get_args

from rich.text import Text

from glmja.text.printable import printable
from glmja.tokenization.tokenizer import GLMTokenizer, Role

# The number of the first round, a question before its answer, the end of an answer.
_ROUNDS = {
    "chatglm2": (1, "[Round {}]\n\n问：{}\n\n答：", "\n\n"),
    "chatglm": (0, "[Round {}]\n问：{}\n答：", "\n"),
}


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
    for number, kept in enumerate(without_oldest_turns(messages)):
        ids, learnt = render(kept, tokenizer)
        if len(ids) <= max_len:
            return ids, learnt, number > 0
    return ids[:max_len], learnt[:max_len], True


def without_oldest_turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """All messages, then without the oldest turn, and so on until the last turn is left.

    A turn is whole, from a user's message to the next one's; a system message stays.
    """
    yield list(messages)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in turns[1:]:
        yield [*system, *messages[start:]]


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


def render_rounds(
    messages: Sequence[Message], tokenizer: GLMTokenizer, model: Literal["chatglm2", "chatglm"] = "chatglm2"
) -> list[int]:
    """Ids of a prompt in numbered rounds, for models that were tuned on ChatGLM2-6B's format, or ChatGLM-6B's.

    All of it is text, so nothing keeps a user from writing a round. Sources of the formats: `build_prompt` in
    https://huggingface.co/THUDM/chatglm2-6b/blob/main/tokenization_chatglm.py and `chat` in
    https://huggingface.co/THUDM/chatglm-6b/blob/main/modeling_chatglm.py, which asks a first question as it is. The ids
    begin with `[gMASK] <sop>`, as ChatGLM2's do; ChatGLM-6B put them last, but no model that is read here is one.

    Raises:
        ValueError: As `check`, or if the messages are not a user's and an assistant's in turns, a user's last.
    """
    _check_rounds(messages, model)
    first, question, end = _ROUNDS[model]
    text = "".join(
        question.format(first + i // 2, message["content"]) if i % 2 == 0 else message["content"] + end
        for i, message in enumerate(messages)
    )
    alone = model == "chatglm" and len(messages) == 1
    return [*tokenizer.prefix_ids, *tokenizer.encode(messages[0]["content"] if alone else text)]


def _check_rounds(messages: Sequence[Message], model: str) -> None:
    check(messages)
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if message["role"] != role or message.get("metadata"):
            what = "has metadata" if message["role"] == role else f"is of the role {message['role']}, not {role}"
            raise ValueError(f"message {i} {what}; the format of {model} has questions and answers in turns only")
    if len(messages) % 2 == 0:
        raise ValueError(f"the last message is the assistant's; a prompt of {model} ends with a question")


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
        text.append(printable(tokenizer.piece(token_id)).replace("\u2581", " "), style=style)
    return text
