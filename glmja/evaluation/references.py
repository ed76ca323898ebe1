"""Conversations with reference answers: the last answer of each conversation is the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmja.conversation.formats import ChatFormat, check_turns, to_messages, without_unanswered
from glmja.conversation.messages import Message
from glmja.errors import DataError
from glmja.files.records import check_files, read_records

_KEYS: dict[str, ChatFormat] = {
    "messages": "messages",
    "conversations": "sharegpt",
    "instruction": "alpaca",
    "summary": "adgen",
}


@dataclass(frozen=True)
class Reference:
    """A prompt and its reference answer.

    Attributes:
        prompt: The conversation up to the answer.
        answer: The reference answer.
    """

    prompt: list[Message]
    answer: str


def read_references(paths: Iterable[str | Path], max_references: int) -> list[Reference]:
    """Reads the first conversations of `.jsonl` and `.jsonl.gz` files.

    Args:
        paths: Files of records in any format of `glmja.conversation.formats`, which is detected by the keys.
        max_references: Maximum number of conversations.

    Returns:
        One reference per conversation.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file has another extension, a record is not a conversation with an answer, or there is no
            conversation; gives `path:line`.
    """
    found: list[Reference] = []
    for path in map(Path, paths):
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            raise DataError(f"{path}: conversations with reference answers must be .jsonl or .jsonl.gz files")
        with closing(read_records(check_files([path], (".jsonl", ".jsonl.gz")))) as records:
            for place, record in records:
                if len(found) == max_references:
                    return found
                found.append(_reference(record, place))
    if not found:
        raise DataError(f"no conversation in {', '.join(map(str, paths))}")
    return found


def _reference(record: Any, place: str) -> Reference:
    try:
        messages = without_unanswered(to_messages(record, _format_of(record)))
        check_turns(messages)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
    return Reference(messages[:-1], messages[-1]["content"])


def _format_of(record: Any) -> ChatFormat:
    keys = record if isinstance(record, Mapping) else {}
    for key, chat_format in _KEYS.items():
        if keys.get(key) is not None:
            return chat_format
    raise DataError(f"a conversation needs one of the keys {', '.join(_KEYS)}; found {sorted(keys)}"[:300])
