"""Renders the conversations of a chunk; a chat store runs it in worker processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.sources import ChatSource
from data_modules.stores.store import digest_of
from glmja.conversation.formats import ChatFormat, read_conversation
from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render_examples
from glmja.conversation.turns import Learn, check_turns, learning, without_unanswered
from glmja.errors import DataError
from glmja.files.chunks import Chunk
from glmja.files.records import records_of
from glmja.tokenization.tokenizer import GLMTokenizer

_NO_TARGETS = "no assistant text within the first row_len tokens"


@dataclass(frozen=True)
class Reading:
    """Settings for reading the records of a source.

    Attributes:
        chat_format: Format of the records.
        columns: The names that the records have for keys of the format.
        learn: Which answers are trained on.
        row_len: Maximum number of tokens of a conversation; see `glmja.conversation.rendering.render_within`.
    """

    chat_format: ChatFormat
    columns: Mapping[str, str]
    learn: Learn
    row_len: int


class Dropped(NamedTuple):
    """A record without target tokens."""

    reason: str  # to count it under
    place: str  # `path:line`
    detail: str


class Rendered(NamedTuple):
    """Conversations as token ids, one after the other, and the records that were dropped."""

    tokens: NDArray[np.uint32]  # of all conversations
    loss_mask: NDArray[np.bool_]  # whether each token is a target of the loss
    lengths: list[int]  # tokens of each conversation
    num_target_tokens: list[int]  # of each conversation
    digests: list[bytes]  # of each conversation; equal for equal tokens
    num_examples: list[int]  # of each record; in rounds, each of its answers is a conversation of its own
    num_shortened: int
    dropped: list[Dropped]
    unknown_keys: Counter[str]  # number of records that have each key that no format knows


def render_chunk(chunk: Chunk, tokenizer: GLMTokenizer, reading: Reading) -> Rendered:
    """Renders the conversations of a chunk.

    Args:
        chunk: Records.
        tokenizer: Tokenizer with the roles of conversations.
        reading: How the records are read.

    Raises:
        ValueError: If a line is not UTF-8 or not JSON: then the file is damaged, not just one of its records.
    """
    ids: list[int] = []
    loss_mask: list[bool] = []
    lengths: list[int] = []
    num_target_tokens: list[int] = []
    digests: list[bytes] = []
    num_examples: list[int] = []
    dropped: list[Dropped] = []
    num_shortened = 0
    unknown_keys: Counter[str] = Counter()
    for place, record in records_of(chunk):
        try:
            conversation = read_conversation(record, reading.chat_format, reading.columns)
            messages = learning(without_unanswered(conversation.messages), reading.learn)
            check_turns(messages)
            examples = render_examples(messages, tokenizer, reading.row_len)
        except BadConversation as error:
            dropped.append(Dropped(error.reason, place, str(error)))
            continue
        unknown_keys.update(conversation.unknown_keys)
        kept = [example for example in examples if any(example[1][1:])]  # nothing predicts the first token
        if not kept:
            dropped.append(Dropped(_NO_TARGETS, place, _NO_TARGETS))
            continue
        num_examples.append(len(kept))
        for row_ids, row_mask, shortened in kept:
            ids += row_ids
            loss_mask += row_mask
            lengths.append(len(row_ids))
            digests.append(digest_of(np.array(row_ids, np.uint32)))
            num_target_tokens.append(sum(row_mask))
            num_shortened += shortened
    tokens, mask = np.array(ids, np.uint32), np.array(loss_mask, np.bool_)
    return Rendered(
        tokens, mask, lengths, num_target_tokens, digests, num_examples, num_shortened, dropped, unknown_keys
    )


def without_targets(source: ChatSource, dropped: str) -> DataError:
    """Returns the error of a source that has no conversation to train on.

    Args:
        source: The source.
        dropped: Place and reason of the first record that was dropped; empty if there are no records.
    """
    nothing = f"no records in {', '.join(source.files) or source.hub}"
    return DataError(f"source {source.name!r} has no conversation with target tokens: {dropped or nothing}")
