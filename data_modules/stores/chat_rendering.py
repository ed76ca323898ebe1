"""Renders the conversations of a chunk; a chat store runs it in worker processes."""

from __future__ import annotations

from textwrap import shorten
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.stores.store import digest_of
from glmja.conversation.formats import BadConversation, ChatFormat, check_turns, to_messages, without_unanswered
from glmja.conversation.rendering import render_within
from glmja.files.records import Chunk, records_of
from glmja.tokenization.tokenizer import GLMTokenizer

_DETAIL_LEN = 60  # maximum number of characters
_NO_TARGETS = "no assistant text within the first row_len tokens"


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
    num_shortened: int
    dropped: list[Dropped]


def render_chunk(chunk: Chunk, tokenizer: GLMTokenizer, chat_format: ChatFormat, row_len: int) -> Rendered:
    """Renders the conversations of a chunk.

    Args:
        chunk: Records.
        tokenizer: Tokenizer with the roles of conversations.
        chat_format: Format of the records.
        row_len: Maximum number of tokens of a conversation; a longer one loses its oldest turns.

    Raises:
        ValueError: If a line is not UTF-8 or not JSON: then the file is damaged, not just one of its records.
    """
    ids: list[int] = []
    loss_mask: list[bool] = []
    lengths: list[int] = []
    num_target_tokens: list[int] = []
    digests: list[bytes] = []
    dropped: list[Dropped] = []
    num_shortened = 0
    for place, record in records_of(chunk):
        try:
            messages = without_unanswered(to_messages(record, chat_format))
            check_turns(messages)
        except BadConversation as error:
            dropped.append(Dropped(error.reason, place, shorten(str(error), _DETAIL_LEN, placeholder=" …")))
            continue
        row_ids, row_mask, shortened = render_within(messages, tokenizer, row_len)
        if not any(row_mask[1:]):  # nothing precedes the first token, so it is not a target
            dropped.append(Dropped(_NO_TARGETS, place, _NO_TARGETS))
            continue
        ids += row_ids
        loss_mask += row_mask
        lengths.append(len(row_ids))
        digests.append(digest_of(np.array(row_ids, np.uint32)))
        num_target_tokens.append(sum(row_mask))
        num_shortened += shortened
    tokens, mask = np.array(ids, np.uint32), np.array(loss_mask, np.bool_)
    return Rendered(tokens, mask, lengths, num_target_tokens, digests, num_shortened, dropped)
