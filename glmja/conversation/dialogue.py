"""A conversation that goes on: what was said, in the format of a model, and within its positions.

It hears without a model, so that what does not fit is refused before weights are loaded, and answers with one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from peft import PeftModel
from rich.text import Text
from transformers import GlmForCausalLM

from glmja.conversation.rendering import Message, has_roles, render_prompt, render_rounds, show, without_oldest_turns
from glmja.conversation.replies import split_metadata
from glmja.conversation.streaming import ReplyStream, TextStream
from glmja.modeling.generation import check_sampling, generate_ids
from glmja.tokenization.tokenizer import GLMTokenizer

PromptFormat = Literal["chatglm3", "chatglm2", "chatglm"]
Ending = Literal["ended", "cut", "interrupted"]


@dataclass(frozen=True)
class Sampling:
    """How answers are generated; see `glmja.conversation.replies.generate`.

    Raises:
        ValueError: If a number is out of its range.
    """

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_p: float
    seed: int | None

    def __post_init__(self) -> None:
        check_sampling(self.max_new_tokens, self.temperature, self.top_p)


class Dialogue:
    """What was said, and how to go on.

    Attributes:
        opening: What every conversation starts with: a system message, or nothing.
        messages: What the model knows of; the oldest turns are left out when they do not fit any more.
    """

    def __init__(
        self,
        tokenizer: GLMTokenizer,
        prompt_format: PromptFormat,
        sampling: Sampling,
        num_positions: int,
        opening: Sequence[Message] = (),
    ) -> None:
        """Starts with the opening.

        Args:
            tokenizer: The one of the model.
            prompt_format: Which model's prompts it writes.
            sampling: How answers are generated.
            num_positions: Of the model; prompts and answers stay within them.
            opening: A system message, or nothing.

        Raises:
            ValueError: If tokenizer or opening do not suit the format, or there is no room for a prompt.
        """
        if prompt_format == "chatglm3" and not has_roles(tokenizer):
            raise ValueError(
                "the tokenizer has no tokens for the roles of a chat, as that of ChatGLM2-6B; set `format` to chatglm2"
            )
        self._tokenizer, self._format = tokenizer, prompt_format
        self._sampling, self._num_positions = sampling, num_positions
        self.restart(opening)

    def restart(self, opening: Sequence[Message]) -> None:
        """Forgets everything but a new opening.

        Raises:
            ValueError: If the opening does not suit the format, or leaves no room for a prompt.
        """
        self._fit([*opening, {"role": "user", "content": ""}])
        self.opening, self.messages = list(opening), list(opening)
        self._prompt_ids: list[int] = []
        self._said: list[int] = []
        self._num_answers = 0

    def add_message(self, text: str) -> int:
        """Adds what the user says, or what a tool answers if the assistant has called one.

        Returns:
            How many of the oldest turns were left out to make room.

        Raises:
            ValueError: If the text alone is too long, or no text; it is not added then.
        """
        role: Literal["observation", "user"] = "observation" if self.called_tool else "user"
        messages: list[Message] = [*self.messages, {"role": role, "content": text}]
        kept, self._prompt_ids = self._fit(messages)
        self.messages, self._said = kept, []
        return _num_turns(messages) - _num_turns(kept)

    def answer(self, model: GlmForCausalLM | PeftModel, on_text: Callable[[str], object]) -> Ending:
        """The assistant's next message, added to the others.

        Ctrl-C ends it early: what was said until then is the message, and if it is nothing, the question is taken back.

        Args:
            model: Answers.
            on_text: Called with each bit of text as it is said.

        Returns:
            Whether the assistant ended its turn itself, was cut off after `max_new_tokens`, or interrupted.
        """
        stream = ReplyStream(self._tokenizer) if self._format == "chatglm3" else TextStream(self._tokenizer)

        def listen(ids: list[int]) -> None:
            for token_id in ids:
                on_text(stream.add(token_id))

        interrupted = False
        try:
            self._generate(model, listen)
        except KeyboardInterrupt:
            interrupted = True
        on_text(stream.close())
        self._said = stream.ids
        ended = bool(stream.ids) and stream.ids[-1] in self._tokenizer.stop_ids
        self._remember(stream.ids[:-1] if ended else stream.ids, interrupted)
        return "ended" if ended else "interrupted" if interrupted else "cut"

    @property
    def called_tool(self) -> str | None:
        """The tool whose answer the assistant waits for."""
        tools = (self.messages[0].get("tools") or []) if self.messages else []
        last = self.messages[-1].get("metadata") if self.messages else None
        return last if last in [tool["name"] for tool in tools] else None

    def show(self) -> Text:
        """What the model read at the last turn, and in green what it said."""
        flags = [False] * len(self._prompt_ids) + [True] * len(self._said)
        return show([*self._prompt_ids, *self._said], flags, self._tokenizer)

    def _fit(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        room = self._num_positions - self._sampling.max_new_tokens
        for kept in without_oldest_turns(messages):
            ids = self._render(kept)
            if len(ids) <= room:
                return kept, ids
        raise ValueError(
            f"the prompt has {len(ids)} tokens, and {max(0, room)} fit: the model has {self._num_positions} positions, "
            f"of which max_new_tokens ({self._sampling.max_new_tokens}) are for the answer"
        )

    def _render(self, messages: Sequence[Message]) -> list[int]:
        if self._format == "chatglm3":
            return render_prompt(messages, self._tokenizer)
        return render_rounds(messages, self._tokenizer, self._format)

    def _generate(self, model: GlmForCausalLM | PeftModel, listen: Callable[[list[int]], None]) -> None:
        # each turn has noise of its own
        seed = None if self._sampling.seed is None else self._sampling.seed + self._num_answers
        self._num_answers += 1
        how = vars(replace(self._sampling, seed=seed))
        generate_ids(model, self._tokenizer, [self._prompt_ids], **how, on_ids=listen)

    def _remember(self, ids: list[int], interrupted: bool) -> None:
        if interrupted and not ids:
            self.messages.pop()
        elif self._format == "chatglm3":
            metadata, text = split_metadata(ids, self._tokenizer)
            self.messages.append({"role": "assistant", "metadata": metadata, "content": text})
        else:
            self.messages.append({"role": "assistant", "content": self._tokenizer.decode(ids)})


def _num_turns(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "user" for message in messages)
