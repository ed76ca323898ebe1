"""Replies of a model to conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from peft import PeftModel
from transformers import GlmForCausalLM

from glmja.conversation.rendering import Message, render_prompt
from glmja.modeling.generation import Settings, generate_ids
from glmja.tokenization.tokenizer import GLMTokenizer


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The message, without its metadata line.
        metadata: The name of the tool that the text calls; empty in an answer to the user.
        ids: All ids that the model said, up to the one that stopped it, which is left out.
        num_prompt_tokens: Tokens that it read.
        stopped: Whether it ended its turn itself; if not, it ran into `max_new_tokens`.
    """

    text: str
    metadata: str
    ids: list[int]
    num_prompt_tokens: int
    stopped: bool

    @property
    def whole(self) -> str:
        """With the metadata line, if it is not empty: a model that has not learnt the format answers there."""
        return f"{self.metadata}\n{self.text}" if self.metadata else self.text


def generate(
    model: GlmForCausalLM | PeftModel,
    tokenizer: GLMTokenizer,
    prompts: Sequence[Sequence[Message]],
    **settings: Unpack[Settings],
) -> list[Reply]:
    """The assistant's next message in each conversation.

    Args:
        model: Its mode (train or eval) is as before afterwards.
        tokenizer: The one of the model.
        prompts: Conversations, each ending before the assistant's message.
        settings: As `generate_ids` explains them.

    Raises:
        ValueError: If a conversation is not well-formed, and as `generate_ids`.
    """
    rows = [render_prompt(prompt, tokenizer) for prompt in prompts]
    said = generate_ids(model, tokenizer, rows, **settings)
    return [_reply(ids, len(row), stopped, tokenizer) for row, (ids, stopped) in zip(rows, said, strict=True)]


def split_metadata(ids: Sequence[int], tokenizer: GLMTokenizer) -> tuple[str, str]:
    """The metadata line and the content of what an assistant said; the inverse of how a message is rendered.

    Without a line feed all of it is content.
    """
    line_feed = tokenizer.encode("\n")[-1]
    border = list(ids).index(line_feed) if line_feed in ids else -1
    return tokenizer.decode(ids[: max(0, border)]), tokenizer.decode(ids[border + 1 :])


def _reply(ids: list[int], num_prompt_tokens: int, stopped: bool, tokenizer: GLMTokenizer) -> Reply:
    metadata, text = split_metadata(ids, tokenizer)
    return Reply(text, metadata, ids, num_prompt_tokens, stopped)
