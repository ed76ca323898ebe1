"""Conversations with reference answers: the last answer of each conversation is the reference.

Records have a format of `glmja.conversation.formats`, or one of those in which questions with answers are published:
`prompt` and `completion` (Hugging Face TRL), `question` and `answers` with an optional `context` (SQuAD, JSQuAD,
CMRC2018), or `input` and `output` (llm-jp-eval). The list `references` adds further accepted answers to any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from glmja.conversation.formats import KEYS, format_of, to_messages
from glmja.conversation.messages import Message, without_oldest_turns
from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render_prompt
from glmja.conversation.replies import whole_text
from glmja.conversation.turns import check_turns, without_unanswered
from glmja.errors import DataError
from glmja.files.input_files import CONVERSATION_KINDS, InputPath, find_files
from glmja.files.records import read_records
from glmja.modeling.model_folder import ModelFolder

_QUESTIONS = {"completion": "prompt", "answers": "question", "answer": "question", "output": "input"}  # by answer
_PLACES_NAMED = 3  # for each reason


@dataclass(frozen=True)
class Reference:
    """A prompt and its reference answers.

    Attributes:
        prompt: The conversation up to the answer.
        answers: The accepted answers; one that calls a tool begins with the tool's name and a line feed.
        tool: Name of the tool that the answer calls; empty if it calls none.
        place: Place of the record, `path:line`.
    """

    prompt: list[Message]
    answers: list[str]
    tool: str = ""
    place: str = ""


@dataclass
class References:
    """References of one language.

    Attributes:
        kept: The references.
        left_out: Places of the records that cannot be used, by reason.
        first: Place of the first of these records, and what is wrong with it.
        shortened: Number of prompts that lost their oldest turns to fit into the model.
    """

    kept: list[Reference] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    first: str = ""
    shortened: int = 0

    def leave_out(self, place: str, reason: str, detail: str) -> None:
        """Counts a record that cannot be used.

        Args:
            place: Place of the record.
            reason: Category of the error.
            detail: What is wrong.
        """
        self.left_out.setdefault(reason, []).append(place)
        self.first = self.first or f"{place}: {detail}"

    def check(self, lang: str, max_bad_share: float) -> None:
        """Checks how many records were left out.

        Args:
            lang: Language of the references.
            max_bad_share: Maximum share of the records that may be left out. One may be, unless it is 0.

        Raises:
            ValueError: If more were left out, or nothing is left; gives `path:line` of the first one.
        """
        bad = sum(map(len, self.left_out.values()))
        if bad and not self.kept:
            raise DataError(f"`generate` {lang}: none of {bad} records can be used: {self.first}")
        total = bad + len(self.kept)
        if bad > (max(1, max_bad_share * total) if max_bad_share else 0):
            raise DataError(
                f"`generate` {lang}: {bad} of {total} records cannot be used; repair them, or raise `max_bad_share` "
                f"({max_bad_share}): {self.first}"
            )

    def notes(self) -> list[str]:
        """Returns a line for each reason for which records were left out, and one if prompts were shortened."""
        lines = []
        for reason, places in self.left_out.items():
            more = ", …" if len(places) > _PLACES_NAMED else ""
            lines.append(f"{len(places)} left out: {reason} ({', '.join(places[:_PLACES_NAMED])}{more})")
        return lines + ([f"{self.shortened} without their oldest turns, to fit"] if self.shortened else [])


def read_references(paths: Iterable[InputPath], max_references: int) -> References:
    """Reads the first conversations of files. Records that are no conversation with an answer are counted.

    Args:
        paths: Files, folders and patterns, as `glmja.files.input_files.find_files` takes them. The format of the
            records is detected by their keys.
        max_references: Maximum number of conversations.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file has another extension or is damaged, or there is no record; gives `path:line`.
    """
    found = References()
    with closing(read_records(find_files(paths, CONVERSATION_KINDS))) as records:
        for place, record in records:
            if len(found.kept) == max_references:
                return found
            try:
                found.kept.append(to_reference(record, place))
            except BadConversation as error:
                found.leave_out(place, error.reason, str(error))
    if not (found.kept or found.left_out):
        raise DataError(f"no conversation in {', '.join(map(str, paths))}")
    return found


def shorten_to_fit(found: References, lang: str, models: Sequence[ModelFolder], max_new_tokens: int) -> References:
    """Drops the oldest turns of prompts that are too long for a model, and counts those that stay too long.

    Args:
        found: References of one language.
        lang: Their language.
        models: The models that answer. All get the same prompts.
        max_new_tokens: Number of tokens of an answer.
    """
    fitting = References([], {reason: list(places) for reason, places in found.left_out.items()}, found.first)
    for number, reference in enumerate(found.kept, start=1):
        excess = None
        for prompt in without_oldest_turns(reference.prompt):
            excess = _excess(prompt, models, max_new_tokens)
            if excess is None:
                fitting.kept.append(replace(reference, prompt=prompt))
                fitting.shortened += len(prompt) < len(reference.prompt)
                break
        if excess is not None:
            fitting.leave_out(reference.place, "too long", f"`generate` {lang}: conversation {number} has {excess}")
    return fitting


def to_reference(record: Any, place: str = "") -> Reference:
    """Converts a record to a prompt with reference answers.

    Args:
        record: A parsed line of JSON, or a row of a table.
        place: Place of the record.

    Raises:
        BadConversation: If the record is not a conversation, or has no answer.
    """
    keys = record if isinstance(record, Mapping) else {}
    messages, answers = _conversation(keys)
    if keys.get("references") is not None:
        answers += _texts(keys["references"], "references")
    for answer in answers:
        to_messages({"messages": [_message("assistant", answer)]}, "messages")  # must be valid Unicode
    if answers and (not messages or messages[-1]["role"] != "assistant"):
        messages = [*messages, _message("assistant", answers[0])]
    messages = without_unanswered(messages)
    check_turns(messages)
    last = messages[-1]
    if last.get("loss") is False:
        raise BadConversation("nothing to learn", "the last answer is excluded from training, so it is no reference")
    accepted = dict.fromkeys([whole_text(last.get("metadata") or "", last["content"]), *answers])
    return Reference(messages[:-1], list(accepted), "" if answers else last.get("metadata") or "", place)


def _conversation(record: Mapping[str, Any]) -> tuple[list[Message], list[str]]:
    """Returns a conversation, with its answer or without it, and the answers that are not part of it."""
    if chat_format := format_of(record):
        return to_messages(record, chat_format), []
    for key, asked in _QUESTIONS.items():
        if record.get(key) is not None and record.get(asked) is not None:
            break
    else:
        pairs = ", ".join(f"{asked} with {key}" for key, asked in _QUESTIONS.items())
        names = ", ".join(dict.fromkeys(required[0] for required, _ in KEYS.values()))
        detail = f"a conversation needs one of the keys {names}, or {pairs}; found {sorted(record)}"
        raise BadConversation("missing key", detail[:300])
    question, answers = record[asked], record[key]
    if isinstance(question, list):  # messages, as TRL has them
        completion = answers if isinstance(answers, list) else [_message("assistant", answers)]
        return to_messages({"messages": [*question, *completion]}, "messages"), []
    context = record.get("context") if asked == "question" else None
    if not isinstance(question, str) or not isinstance(context or "", str):
        raise BadConversation("wrong type", f"{asked!r} and the context must be texts")
    text = f"{context}\n\n{question}" if context else question
    return to_messages({"messages": [_message("user", text)]}, "messages"), _texts(answers, key)


def _texts(value: Any, key: str) -> list[str]:
    """Returns the texts of a string, a list of strings, or SQuAD's `{"text": [...]}`; blank ones are left out."""
    held = value.get("text") if isinstance(value, Mapping) else value
    items = held if isinstance(held, list) else [held]
    found = [item.get("text") if isinstance(item, Mapping) else item for item in items]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise BadConversation("wrong type", f"{key!r} is not a text, a list of texts, or an object with `text`")
    if not texts:
        raise BadConversation("no answer", f"{key!r} is empty")
    if not any(text.strip() for text in texts):
        raise BadConversation("empty answer", f"{key!r} has no text")
    return [text for text in texts if text.strip()]


def _message(role: Any, content: Any) -> Message:
    return {"role": role, "content": content}


def _excess(prompt: Sequence[Message], models: Sequence[ModelFolder], max_new_tokens: int) -> str | None:
    """Returns which model a prompt with its answer is too long for, or None."""
    for model in models:
        num_tokens, num_positions = len(render_prompt(prompt, model.tokenizer)), model.max_positions
        if num_tokens + max_new_tokens > num_positions:
            return (
                f"{num_tokens} tokens; with `max_new_tokens` ({max_new_tokens}) that exceeds the {num_positions} "
                f"positions of {model.path}"
            )
    return None
