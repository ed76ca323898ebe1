"""Rows of documents for a model that reads a context in both directions before it answers, as ChatGLM-6B.

Each part of a document in a row is a sequence of its own: a context, `[gMASK] <sop>`, and an answer, whose tokens are
the only target tokens. The context is empty, so that the model learns to begin a text, or the first tokens of the
part, so that it learns to read one: GLM was trained to generate the last 50 % to 100 % of a document (section 2.2 of
https://arxiv.org/abs/2103.10360).

A stream counts two tokens more for each document, which are its `[gMASK] <sop>`. A part that continues a document at
the beginning of a row needs them again: stretches of the stream are that much shorter than a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.packing import PackedRows
from data_modules.batches.rows import Fragment, Row, TokenArrays, pack
from glmja.tokenization.tokenizer import GLMTokenizer

NUM_ADDED = 2  # `[gMASK] <sop>`
MIN_ROW_LEN = 8  # a row holds more than control tokens


def prefixed(stream: DocumentStream) -> DocumentStream:
    """Returns the stream of the same documents with two tokens more each."""
    return DocumentStream(stream.lengths + NUM_ADDED, stream.documents, stream.seed)


def with_context(ids: NDArray[np.uint32], context_len: int, prefix_ids: Sequence[int]) -> Fragment:
    """Returns a part of a document as a sequence with the answer as target tokens.

    Args:
        ids: Ids of the part, (T,).
        context_len: Number of them that are the context.
        prefix_ids: Ids of `[gMASK] <sop>`, which are added after the context.
    """
    loss_mask = np.arange(len(ids) + NUM_ADDED) >= context_len + NUM_ADDED
    return Fragment(np.insert(ids, context_len, prefix_ids), loss_mask)


class PrefixRows(PackedRows):
    """Rows cut from streams of `prefixed`; row i is a pure function of the seed and i.

    A row is up to two tokens shorter than `row_len` if it does not continue a document, and up to two more if nothing
    but the two added tokens of a document would be at its end.
    """

    def __init__(
        self,
        stores: Sequence[TokenArrays],
        streams: Sequence[DocumentStream],
        order: tuple[NDArray[np.int64], NDArray[np.int64]],
        row_len: int,
        tokenizer: GLMTokenizer,
        context_share: float,
        **others: Any,
    ) -> None:
        """Creates the rows; their tokens are read on access.

        Args:
            stores: Tokens of each source.
            streams: Stream of each source, as `prefixed` returns it.
            order: See `PackedRows`.
            row_len: Maximum number of tokens in a row, at least `MIN_ROW_LEN`.
            tokenizer: Tokenizer of the documents.
            context_share: Share of the parts that have a context; those of a stream without a seed have none.
            others: `num_tokens` and `first_source` of `PackedRows`.
        """
        super().__init__(stores, streams, order, row_len - NUM_ADDED, **others)
        self.prefix_ids, self.positions, self.context_share = tokenizer.prefix_ids, tokenizer.positions, context_share

    def __getitem__(self, i: int) -> Row:
        """Returns row i."""
        source = int(self.sources[i])
        store, (documents, firsts, ends, contexts) = self.stores[source], self._parts(i)
        starts = store.starts[documents]
        fragments = [
            with_context(store.tokens[begin:end], int(context), self.prefix_ids)
            for begin, end, context in zip(starts + firsts, starts + ends, contexts, strict=True)
        ]
        return pack(fragments, positions=self.positions, source=self.first_source + source)

    def length(self, i: int) -> int:
        """Returns the number of tokens of row i."""
        _, firsts, ends, _ = self._parts(i)
        return int((ends - firsts + NUM_ADDED).sum())

    def num_target_tokens(self, numbers: NDArray[np.int64]) -> int:
        """Returns the number of target tokens of some rows: those of the answers."""
        parts = [self._parts(int(i)) for i in numbers]
        return sum(int((ends - firsts - contexts).sum()) for _, firsts, ends, contexts in parts)

    def _parts(self, i: int) -> NDArray[np.int64]:
        """Returns document, first token, end and length of the context of each part in row i, (4, parts)."""
        stream = self.streams[int(self.sources[i])]
        (begin,), (end,) = self._positions(np.array([i]))
        documents, firsts, ends = np.array(stream.parts(int(begin), int(end)), dtype=np.int64).T
        has_text = ends > NUM_ADDED
        documents, firsts, ends = documents[has_text], firsts[has_text], ends[has_text] - NUM_ADDED
        firsts = np.maximum(firsts - NUM_ADDED, 0)
        contexts = np.zeros_like(firsts)
        if stream.seed is not None:
            rng = np.random.default_rng([*stream.seed, int(self.numbers[i]), 1])
            drawn, place = rng.random((2, len(firsts)))
            longest = (ends - firsts) // 2
            contexts = np.where(
                drawn < self.context_share, np.minimum(1 + (place * longest).astype(np.int64), longest), 0
            )
        return np.stack([documents, firsts, ends, contexts])
