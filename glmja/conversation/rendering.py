"""Conversations as token ids, in the format of ChatGLM3 or in rounds (`glmja.conversation.rounds`).

ChatGLM3: `[gMASK] <sop>`, then for each message `<|role|>`, its metadata, a line feed, and its content. Each part is
encoded separately and control tokens are inserted as ids, never as text, so that user text cannot open a turn. Source
of the format: ChatGLM3's PROMPT.md and `build_single_message`,
https://github.com/THUDM/ChatGLM3/blob/main/PROMPT_en.md; a test compares with the ids of ChatGLM3's own tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from glmja.conversation.messages import Message, check_messages, has_tools, without_oldest_turns
from glmja.conversation.rounds import render_answers, render_rounds
from glmja.families.names import PromptFormat
from glmja.families.recognition import family_of
from glmja.text.printable import printable
from glmja.tokenization.tokenizer import GLMTokenizer


def render_examples(
    messages: Sequence[Message], tokenizer: GLMTokenizer, max_len: int
) -> list[tuple[list[int], list[bool], bool]]:
    """Renders a conversation for training, in the format of the tokenizer's family.

    In ChatGLM3's format, it is one example, with all answers as target tokens. In rounds, each answer is an example.

    Args:
        messages: The conversation.
        tokenizer: The model's tokenizer.
        max_len: Maximum number of ids of an example.

    Returns:
        Token ids, loss mask and whether anything was dropped, of each example; see `render_within` and
        `glmja.conversation.rounds.render_answers`.

    Raises:
        ValueError: If the conversation is malformed, or has messages that the format does not know.
    """
    prompt_format = family_of(tokenizer).prompt_format
    if prompt_format == "chatglm3":
        return [render_within(messages, tokenizer, max_len)]
    return render_answers(messages, tokenizer, max_len, prompt_format)


def render(messages: Sequence[Message], tokenizer: GLMTokenizer) -> tuple[list[int], list[bool]]:
    """Renders a conversation for training.

    Args:
        messages: The conversation.
        tokenizer: A tokenizer with role tokens.

    Returns:
        Token ids and loss mask. The target tokens are the assistant's text after its role token, including the
        metadata line, and the token that ends its turn: the next role token, or the end of the text. A message whose
        `loss` is False has none.

    Raises:
        ValueError: If the conversation is malformed; see `check_messages`.
    """
    check_messages(messages)
    return _join(messages, [_body_ids(message, tokenizer) for message in messages], tokenizer)


def _join(
    messages: Sequence[Message], bodies: Sequence[list[int]], tokenizer: GLMTokenizer
) -> tuple[list[int], list[bool]]:
    """Returns ids and loss mask of messages whose metadata and content are already encoded."""
    ids = tokenizer.prefix_ids
    loss_mask, was_target = [False] * len(ids), False
    for message, body in zip(messages, bodies, strict=True):
        is_target = message["role"] == "assistant" and message.get("loss") is not False
        ids += [tokenizer.role_id(message["role"]), *body]
        loss_mask += [was_target, *[is_target] * len(body)]
        was_target = is_target
    if messages[-1]["role"] == "assistant":
        ids, loss_mask = [*ids, tokenizer.eos_id], [*loss_mask, was_target]
    return ids, loss_mask


def render_within(
    messages: Sequence[Message], tokenizer: GLMTokenizer, max_len: int
) -> tuple[list[int], list[bool], bool]:
    """Renders a conversation for training, truncated to a maximum length.

    The oldest turns are dropped first, each from a user's message to the next one's; a system message is kept. If the
    last turn alone is too long, the longest messages of the user and of tools lose their ends, until the turn fits or
    what is no target token takes half of the length. What is still too long is cut off the end of the turn. No target
    token may remain, as after a system message that is longer than the maximum.

    Args:
        messages: The conversation.
        tokenizer: A tokenizer with role tokens.
        max_len: Maximum number of ids.

    Returns:
        Token ids, loss mask, and whether anything was dropped.

    Raises:
        ValueError: If the conversation is malformed; see `check_messages`.
    """
    for number, kept in enumerate(without_oldest_turns(messages)):
        ids, loss_mask = render(kept, tokenizer)
        if len(ids) <= max_len:
            return ids, loss_mask, number > 0
    num_targets = sum(loss_mask)
    excess = len(ids) - num_targets - max(max_len - num_targets, max_len // 2)
    if excess > 0 and num_targets:
        ids, loss_mask = _join(kept, _shorten_prompt(kept, excess, tokenizer), tokenizer)
    return ids[:max_len], loss_mask[:max_len], True


def _shorten_prompt(messages: Sequence[Message], excess: int, tokenizer: GLMTokenizer) -> list[list[int]]:
    """Returns the ids of each message; those of the user and of tools lose `excess` ids, the longest first."""
    bodies = [_body_ids(message, tokenizer) for message in messages]
    shortened = [i for i, message in enumerate(messages) if message["role"] in ("user", "observation")]
    level = _level([len(bodies[i]) for i in shortened], excess)
    for i in shortened:
        cut = bodies[i][: max(level, len(_metadata_ids(messages[i], tokenizer)))]
        while cut and len(cut) < len(bodies[i]) and tokenizer.piece(cut[-1]).startswith("<0x"):
            cut = cut[:-1]  # of a character of which the rest is cut off
        bodies[i] = cut
    return bodies


def _level(lengths: Sequence[int], excess: int) -> int:
    """Returns the length to which the longest of some lengths are cut, so that they lose `excess` together."""
    kept = max(0, sum(lengths) - excess)
    for count, length in enumerate(ordered := sorted(lengths)):
        if length * (len(ordered) - count) > kept:
            return kept // (len(ordered) - count)
        kept -= length
    return max(lengths, default=0)


def render_prompt(
    messages: Sequence[Message], tokenizer: GLMTokenizer, prompt_format: PromptFormat | None = None
) -> list[int]:
    """Renders a prompt: the ids after which the model writes the assistant's next message.

    Args:
        messages: The conversation up to the answer.
        tokenizer: The model's tokenizer; one with role tokens for the format `chatglm3`.
        prompt_format: The format; that of the tokenizer's family if None.

    Raises:
        ValueError: If the conversation is malformed, or has messages that the format does not know.
    """
    prompt_format = prompt_format or family_of(tokenizer).prompt_format
    if prompt_format == "chatglm3":
        return _render_roles(messages, tokenizer)
    return render_rounds(messages, tokenizer, prompt_format)


def _render_roles(messages: Sequence[Message], tokenizer: GLMTokenizer) -> list[int]:
    """Renders a prompt in ChatGLM3's format: the ids after which the model writes the assistant's next message.

    ChatGLM3's own prompt ends with the role token, and the model writes the metadata line, which is empty in an answer.
    Where no tool can be called, that line is part of the prompt here, so that the answer begins with its first word.
    """
    check_messages(messages)
    ids = tokenizer.prefix_ids
    for message in messages:
        ids += [tokenizer.role_id(message["role"]), *_body_ids(message, tokenizer)]
    ids.append(tokenizer.role_id("assistant"))
    return ids if has_tools(messages) else [*ids, *tokenizer.encode("\n")]


def question_ids(text: str, tokenizer: GLMTokenizer) -> list[int]:
    """Renders a user's text as a prompt, or as plain text to continue if the tokenizer has no role tokens."""
    if tokenizer.has_roles:
        return render_prompt([{"role": "user", "content": text}], tokenizer)
    return tokenizer.prompt_ids(tokenizer.encode(text))


def _body_ids(message: Message, tokenizer: GLMTokenizer) -> list[int]:
    content = message["content"]
    if message.get("tools"):
        content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
    return _metadata_ids(message, tokenizer) + tokenizer.encode(content)


def _metadata_ids(message: Message, tokenizer: GLMTokenizer) -> list[int]:
    return tokenizer.encode(f"{message.get('metadata') or ''}\n")


def show(ids: Sequence[int], loss_mask: Sequence[bool], tokenizer: GLMTokenizer) -> Text:
    """Formats ids as colored text: target tokens green, control tokens bold, adjacent tokens in different shades.

    Args:
        ids: Token ids.
        loss_mask: For each id, whether it is a target token.
        tokenizer: The tokenizer of the ids.

    Raises:
        ValueError: If `ids` and `loss_mask` differ in length.
    """
    if len(ids) != len(loss_mask):
        raise ValueError(f"ids and loss_mask must have the same length, got {len(ids)} and {len(loss_mask)}")
    control, text = set(tokenizer.control_tokens.values()), Text()
    for position, (token_id, is_target) in enumerate(zip(ids, loss_mask, strict=True)):
        shades = ("green", "bright_green") if is_target else ("white", "bright_black")
        style = shades[position % 2] + (" bold" if token_id in control else "")
        text.append(_shown_piece(token_id, tokenizer), style=style)
    return text


def marked(ids: Sequence[int], loss_mask: Sequence[bool], tokenizer: GLMTokenizer) -> str:
    """Formats ids as text in which the target tokens are between ⟦ and ⟧, for where there are no colors.

    Args:
        ids: Token ids.
        loss_mask: For each id, whether it is a target token.
        tokenizer: The tokenizer of the ids.
    """
    pieces = []
    for is_target, group in groupby(zip(ids, loss_mask, strict=True), key=lambda pair: pair[1]):
        text = "".join(_shown_piece(token_id, tokenizer) for token_id, _ in group)
        pieces.append(f"⟦{text}⟧" if is_target else text)
    return "".join(pieces)


def _shown_piece(token_id: int, tokenizer: GLMTokenizer) -> str:
    return printable(tokenizer.piece(token_id)).replace("\u2581", " ")
