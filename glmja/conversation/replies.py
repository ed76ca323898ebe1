"""Replies of a model to conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from glmja.conversation.messages import Message, has_tools
from glmja.conversation.rendering import render_prompt
from glmja.families.recognition import family_of
from glmja.modeling.generation import Continuation, generate_ids
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer


@dataclass(frozen=True)
class Reply:
    """An assistant's message.

    Attributes:
        text: The content, without the metadata line.
        metadata: Name of the tool that the text calls; empty in an answer to the user.
        ids: All generated ids, without the stop token.
        num_prompt_tokens: Length of the prompt in tokens.
        stopped: Whether the model ended its turn with a stop token; if not, `max_new_tokens` was reached.
    """

    text: str
    metadata: str
    ids: list[int]
    num_prompt_tokens: int
    stopped: bool

    @property
    def whole(self) -> str:
        """The text with its metadata line, if any: a model that does not know the format yet answers there."""
        return whole_text(self.metadata, self.text)


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: GLMTokenizer,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    batch_size: int = 8,
    on_ids: Callable[[list[int]], None] | None = None,
) -> list[Reply]:
    """Generates the assistant's next message in each conversation.

    Args:
        model: The model; its mode (train or eval) is restored afterwards.
        tokenizer: The model's tokenizer.
        prompts: Conversations, each ending before the assistant's message.
        sampling: How tokens are chosen.
        batch_size: Number of conversations per forward pass.
        on_ids: Called with each new id of a single conversation as soon as it is generated.

    Returns:
        One reply per conversation.

    Raises:
        ValueError: If a conversation is malformed or too long, or `batch_size` is below 1.
    """
    rows = [render_prompt(prompt, tokenizer) for prompt in prompts]
    continuations = generate_ids(model, tokenizer, rows, sampling, batch_size=batch_size, on_ids=on_ids)
    return [
        _to_reply(found, prompt, len(row), tokenizer)
        for prompt, row, found in zip(prompts, rows, continuations, strict=True)
    ]


def whole_text(metadata: str, content: str) -> str:
    """Joins the metadata line, if any, and the content of an assistant's message."""
    return f"{metadata}\n{content}" if metadata else content


def split_metadata(ids: Sequence[int], tokenizer: GLMTokenizer) -> tuple[str, str]:
    """Splits an assistant's ids into metadata line and content; the inverse of rendering a message.

    Without a line feed, everything is content.
    """
    line_feed = tokenizer.encode("\n")[-1]
    border = list(ids).index(line_feed) if line_feed in ids else -1
    return tokenizer.decode(ids[: max(0, border)]), tokenizer.decode(ids[border + 1 :])


def _to_reply(
    continuation: Continuation, prompt: Sequence[Message], num_prompt_tokens: int, tokenizer: GLMTokenizer
) -> Reply:
    metadata, text = "", family_of(tokenizer).clean_reply(tokenizer.decode(continuation.ids))
    if has_tools(prompt):
        metadata, text = split_metadata(continuation.ids, tokenizer)
    return Reply(text, metadata, continuation.ids, num_prompt_tokens, continuation.stopped)
