"""Conversations as numbered rounds of plain text: the formats of ChatGLM2-6B and ChatGLM-6B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from glmja.conversation.messages import Message, check_messages, without_oldest_turns
from glmja.conversation.record_fields import BadConversation
from glmja.tokenization.tokenizer import GLMTokenizer

RoundFormat = Literal["chatglm2", "chatglm"]

# Number of the first round, a question before its answer, and the end of an answer.
_ROUNDS: dict[RoundFormat, tuple[int, str, str]] = {
    "chatglm2": (1, "[Round {}]\n\n问：{}\n\n答：", "\n\n"),
    "chatglm": (0, "[Round {}]\n问：{}\n答：", "\n"),
}


def render_rounds(
    messages: Sequence[Message], tokenizer: GLMTokenizer, prompt_format: RoundFormat = "chatglm2"
) -> list[int]:
    """Renders a prompt in numbered rounds, for models that were fine-tuned on the format of ChatGLM2-6B or ChatGLM-6B.

    The format is plain text, so user text can imitate a round. Sources: `build_prompt` in
    https://huggingface.co/THUDM/chatglm2-6b/blob/main/tokenization_chatglm.py and `chat` in
    https://huggingface.co/THUDM/chatglm-6b/blob/main/modeling_chatglm.py, which sends a first question unchanged. Where
    `[gMASK] <sop>` are, before the text or after it, the tokenizer decides.

    Args:
        messages: Questions of a user and answers of an assistant in turns, a question last.
        tokenizer: The model's tokenizer.
        prompt_format: The model whose format is used.

    Raises:
        ValueError: If the messages are malformed or in another order.
    """
    _check_rounds(messages, prompt_format)
    return tokenizer.prompt_ids(tokenizer.encode(_text(messages, prompt_format)))


def render_answers(
    messages: Sequence[Message], tokenizer: GLMTokenizer, max_len: int, prompt_format: RoundFormat
) -> list[tuple[list[int], list[bool], bool]]:
    """Renders each answer of a conversation as an example for training, after the rounds before it.

    ChatGLM-6B reads what precedes `[gMASK] <sop>` in both directions, so an earlier answer is no target there: a
    position would see the token that it predicts. Only the answer and the token that ends it are target tokens; `<sop>`
    is given at inference.

    If an example is too long, the oldest rounds are dropped, and the others renumbered. If its question alone is too
    long, it loses its beginning, until the example fits or what is no target token takes half of the length; what is
    still too long is cut off the end of the answer.

    Args:
        messages: Questions of a user and answers of an assistant in turns, an answer last. An answer whose `loss` is
            False is no example.
        tokenizer: The model's tokenizer.
        max_len: Maximum number of ids of an example.
        prompt_format: The model whose format is used.

    Returns:
        Token ids, loss mask, and whether anything was dropped, of each example.

    Raises:
        BadConversation: If the messages are in another order, or have roles or tools that the format does not know.
    """
    try:
        _check_rounds([*messages, {"role": "user", "content": ""}], prompt_format)
    except ValueError as error:
        raise BadConversation("unknown role", str(error)) from error
    return [
        _example(messages[:i], message["content"], tokenizer, max_len, prompt_format)
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("loss") is not False
    ]


def _example(
    prompt: Sequence[Message], answer: str, tokenizer: GLMTokenizer, max_len: int, prompt_format: RoundFormat
) -> tuple[list[int], list[bool], bool]:
    target_ids = [*tokenizer.encode(answer), tokenizer.eos_id]
    for number, kept in enumerate(without_oldest_turns(prompt)):
        text_ids = tokenizer.encode(_text(kept, prompt_format))
        given_ids = tokenizer.prompt_ids(text_ids)
        if len(given_ids) + len(target_ids) <= max_len:
            return given_ids + target_ids, [False] * len(given_ids) + [True] * len(target_ids), number > 0
    excess = len(given_ids) - max(max_len - len(target_ids), max_len // 2)
    if excess > 0:
        given_ids = tokenizer.prompt_ids(text_ids[excess:])
    loss_mask = [False] * len(given_ids) + [True] * len(target_ids)
    return (given_ids + target_ids)[:max_len], loss_mask[:max_len], True


def _text(messages: Sequence[Message], prompt_format: RoundFormat) -> str:
    if prompt_format == "chatglm" and len(messages) == 1:
        return messages[0]["content"]
    first, question, end = _ROUNDS[prompt_format]
    return "".join(
        question.format(first + i // 2, message["content"]) if i % 2 == 0 else message["content"] + end
        for i, message in enumerate(messages)
    )


def _check_rounds(messages: Sequence[Message], prompt_format: str) -> None:
    check_messages(messages)
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if message["role"] != role or message.get("metadata"):
            what = "has metadata" if message["role"] == role else f"has the role {message['role']}, not {role}"
            raise ValueError(f"message {i} {what}; the format {prompt_format} has user and assistant turns only")
    if len(messages) % 2 == 0:
        raise ValueError(f"the last message is the assistant's; a prompt of {prompt_format} ends with a question")
