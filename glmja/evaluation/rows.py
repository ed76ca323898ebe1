"""Rows of documents: each token of a document is predicted in one row, after as much of the text before it as is given.

A document that is longer than a row is split. Without a stride, the tokens after a border do not see the text before
it; with one, each row but the first predicts `stride` tokens and repeats the tokens before them as context
(https://huggingface.co/docs/transformers/perplexity). If models are compared, all their rows have borders at the same
characters, as long as every tokenizer has one: a model with longer pieces would otherwise see more text in each row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from glmja.tokenization.tokenizer import GLMTokenizer


@dataclass(frozen=True)
class Row:
    """A row of token ids.

    Attributes:
        ids: The ids: the prefix, context, and the tokens to predict.
        num_given: Number of ids of prefix and context.
    """

    ids: list[int]
    num_given: int


def to_rows(
    document: str,
    tokenizer: GLMTokenizer,
    row_len: int,
    stride: int | None = None,
    beside: Sequence[GLMTokenizer] = (),
) -> list[Row]:
    """Splits a text into rows of at most `row_len` ids, each beginning with the prefix ids.

    Args:
        document: The text.
        tokenizer: Tokenizer of the model that predicts the rows.
        row_len: Maximum length of a row, in tokens.
        stride: Number of tokens that each row but the first predicts; those that fit, without context, if None.
        beside: Tokenizers of the models that this one is compared with.
    """
    prefix, ids = tokenizer.prefix_ids, tokenizer.encode(document)
    room = row_len - len(prefix)
    step = room if stride is None else min(stride, room)
    borders = _common_borders(ids, tokenizer, [(other.encode(document), other) for other in beside])
    own, rows, first = borders[0], [], 0
    while first < len(own) - 1:
        limit = step if first else room
        end = max(first + 1, min(bisect_right(cuts, cuts[first] + limit) for cuts in borders) - 1)
        if any(cuts[end] - cuts[first] > room for cuts in borders):  # no border in common within a row
            parts = range(own[first], own[end], room)
            rows += [Row(prefix + ids[part : min(part + room, own[end])], len(prefix)) for part in parts]
        else:
            context = max(
                bisect_left(cuts, max(cuts[first] - (room - step), cuts[end] - room), 0, first) for cuts in borders
            )
            rows.append(Row(prefix + ids[own[context] : own[end]], len(prefix) + own[first] - own[context]))
        first = end
    return rows


def _common_borders(
    ids: list[int], tokenizer: GLMTokenizer, others: Sequence[tuple[list[int], GLMTokenizer]]
) -> list[Sequence[int]]:
    """Returns the numbers of tokens before each border that all tokenizers have, a list for each tokenizer."""
    different = [(other_ids, other) for other_ids, other in others if other_ids != ids]
    ends = [_ends(each_ids, each) for each_ids, each in [(ids, tokenizer), *different]]
    if len(ends) == 1 or any(list(each)[-1:] != list(ends[0])[-1:] for each in ends):  # they read different texts
        return [range(len(ids) + 1)]
    common = sorted(set(ends[0]).intersection(*ends[1:]))
    return [[0, *(each[position] for position in common)] for each in ends]


def _ends(ids: Sequence[int], tokenizer: GLMTokenizer) -> dict[int, int]:
    """Returns the number of tokens up to the end of each character that ends a token, by the number of characters."""
    ends, position, num_characters = {}, 0, tokenizer.num_characters
    for number, token_id in enumerate(ids, start=1):
        position += num_characters[token_id]  # a character spelled in bytes counts at its first byte, and ends later
        ends[position] = number
    return ends
