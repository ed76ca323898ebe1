"""A conversation with a model, kept within the model's positions.

Messages are rendered and checked without a model, so that a prompt that does not fit is rejected before weights are
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from peft import PeftModel
from rich.text import Text
from transformers import PreTrainedModel

from glmja.conversation.messages import Message, has_tools, tool_name, without_oldest_turns
from glmja.conversation.rendering import render_prompt, show
from glmja.conversation.replies import split_metadata
from glmja.conversation.streaming import CleanedStream, ReplyStream, TextStream
from glmja.families.names import PromptFormat
from glmja.families.recognition import family_of
from glmja.modeling.generation import generate_ids
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer

FinishReason = Literal["ended", "cut", "interrupted"]


class Dialogue:
    """A conversation that a user and a model continue in turns.

    Attributes:
        opening: First messages of every conversation: a system message, or nothing.
        messages: Messages in the model's context; the oldest turns are dropped when they no longer fit.
    """

    def __init__(
        self,
        tokenizer: GLMTokenizer,
        prompt_format: PromptFormat,
        sampling: Sampling,
        num_positions: int,
        opening: Sequence[Message] = (),
    ) -> None:
        """Starts a conversation with the opening.

        Args:
            tokenizer: The model's tokenizer.
            prompt_format: Format of the prompts.
            sampling: How tokens are chosen.
            num_positions: Number of positions of the model; prompt and answer together stay within it.
            opening: A system message, or nothing.

        Raises:
            ValueError: If the tokenizer or the opening does not support the format, or no prompt would fit.
        """
        if prompt_format == "chatglm3" and not tokenizer.has_roles:
            raise ValueError(
                "the tokenizer has no role tokens (<|user|>, <|assistant|>, …), which the prompt format chatglm3 "
                "needs; set `format` to chatglm2 for ChatGLM2-6B"
            )
        self._tokenizer, self._format = tokenizer, prompt_format
        self._clean = family_of(tokenizer).clean_reply
        self._sampling, self._num_positions = sampling, num_positions
        self.restart(opening)

    def restart(self, opening: Sequence[Message]) -> None:
        """Starts a new conversation.

        Args:
            opening: A system message, or nothing.

        Raises:
            ValueError: If the format does not support the opening, or no prompt would fit after it.
        """
        self._fit([*opening, {"role": "user", "content": ""}])
        self.opening, self.messages = list(opening), list(opening)
        self._prompt_ids: list[int] = []
        self._answer_ids: list[int] = []
        self._num_answers = 0

    def add_message(self, text: str) -> int:
        """Adds a message of the user, or the result of a tool if the assistant has called one.

        Args:
            text: Content of the message.

        Returns:
            Number of oldest turns that were dropped to make room.

        Raises:
            ValueError: If the text is too long on its own, or not valid Unicode; the message is not added then.
        """
        role: Literal["observation", "user"] = "observation" if self.called_tool else "user"
        messages: list[Message] = [*self.messages, {"role": role, "content": text}]
        kept, self._prompt_ids = self._fit(messages)
        self.messages, self._answer_ids = kept, []
        return _num_turns(messages) - _num_turns(kept)

    def answer(self, model: PreTrainedModel | PeftModel, on_text: Callable[[str], object]) -> FinishReason:
        """Generates the assistant's next message and adds it to the conversation.

        Ctrl-C ends the answer early: the text generated so far becomes the message. If there is none, the question is
        removed again.

        Args:
            model: The model that answers.
            on_text: Called with each new part of the text as soon as it is decodable.

        Returns:
            Whether the assistant ended its turn, was cut off after `max_new_tokens`, or was interrupted.
        """
        stream = ReplyStream(self._tokenizer) if self._has_metadata else TextStream(self._tokenizer)
        cleaned = CleanedStream(self._clean)

        def add(ids: list[int]) -> None:
            for token_id in ids:
                on_text(cleaned.add(stream.add(token_id)))

        interrupted = False
        try:
            self._generate(model, add)
        except KeyboardInterrupt:
            interrupted = True
        on_text(cleaned.close(stream.close()))
        self._answer_ids = stream.ids
        ended = bool(stream.ids) and stream.ids[-1] in self._tokenizer.stop_ids
        self._add_answer(stream.ids[:-1] if ended else stream.ids, interrupted)
        return "ended" if ended else "interrupted" if interrupted else "cut"

    def retry(self) -> None:
        """Removes the last answer, so that `answer` gives another one to the same message.

        Raises:
            ValueError: If there is no answer to remove.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ValueError("there is no answer to replace yet")
        kept, self._prompt_ids = self._fit(self.messages[:-1])
        self.messages, self._answer_ids = kept, []

    @property
    def temperature(self) -> float | None:
        """Divisor of the logits before sampling; None if the most likely token is taken each time.

        Raises:
            ValueError: When it is set: if it is out of range, or nothing is sampled.
        """
        return self._sampling.temperature if self._sampling.do_sample else None

    @temperature.setter
    def temperature(self, value: float) -> None:
        changed = replace(self._sampling, temperature=value)
        if not changed.do_sample:
            raise ValueError("greedy decoding has no temperature; set `do_sample` to true")
        self._sampling = changed

    @property
    def called_tool(self) -> str | None:
        """Name of the tool whose result the assistant is waiting for."""
        tools = (self.messages[0].get("tools") or []) if self.messages else []
        last = self.messages[-1].get("metadata") if self.messages else None
        return last if last in [tool_name(tool) for tool in tools if last] else None

    def show(self) -> Text:
        """Returns the tokens of the last prompt, and in green those of the answer."""
        is_answer = [False] * len(self._prompt_ids) + [True] * len(self._answer_ids)
        return show([*self._prompt_ids, *self._answer_ids], is_answer, self._tokenizer)

    def _fit(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        room = self._num_positions - self._sampling.max_new_tokens
        for kept in without_oldest_turns(messages):
            ids = self._render(kept)
            if len(ids) <= room:
                return kept, ids
        raise ValueError(
            f"the prompt has {len(ids)} tokens, but only {max(0, room)} fit: the model has {self._num_positions} "
            f"positions, of which `max_new_tokens` ({self._sampling.max_new_tokens}) are reserved for the answer; "
            "shorten the prompt or lower `max_new_tokens`"
        )

    def _render(self, messages: Sequence[Message]) -> list[int]:
        return render_prompt(messages, self._tokenizer, self._format)

    @property
    def _has_metadata(self) -> bool:
        """True if the answer begins with a metadata line."""
        return self._format == "chatglm3" and has_tools(self.messages)

    def _generate(self, model: PreTrainedModel | PeftModel, on_ids: Callable[[list[int]], None]) -> None:
        # a seed of its own for each turn, so that equal prompts get different answers
        seed = None if self._sampling.seed is None else self._sampling.seed + self._num_answers
        self._num_answers += 1
        generate_ids(model, self._tokenizer, [self._prompt_ids], replace(self._sampling, seed=seed), on_ids=on_ids)

    def _add_answer(self, ids: list[int], interrupted: bool) -> None:
        if interrupted and not ids:
            self.messages.pop()
        elif self._has_metadata:
            metadata, text = split_metadata(ids, self._tokenizer)
            self.messages.append({"role": "assistant", "metadata": metadata, "content": text})
        else:
            self.messages.append({"role": "assistant", "content": self._clean(self._tokenizer.decode(ids))})


def _num_turns(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "user" for message in messages)
