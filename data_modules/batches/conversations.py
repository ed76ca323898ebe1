"""Rows of whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_modules.batches.rows import Fragment, Positions, Row, TokenArrays, pack


class ConversationArrays(TokenArrays, Protocol):
    """Conversations as token ids.

    Attributes:
        loss_mask: Whether each token is a target token.
        num_target_tokens: Number of target tokens of each conversation.
    """

    loss_mask: NDArray[np.bool_]
    num_target_tokens: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each conversation."""
        ...


class ConversationRows:
    """Rows of one or several whole conversations.

    Attributes:
        members: (source, conversation) of each conversation of the run, (n, 2).
        conversations: Numbers into `members` for each row.
        lengths: Number of tokens of each row.
    """

    def __init__(
        self,
        stores: Sequence[ConversationArrays],
        members: NDArray[np.int64],
        conversations: Sequence[NDArray[np.int64]],
        positions: Positions | None = None,
    ) -> None:
        """Creates the rows; their tokens are read on access.

        Args:
            stores: Conversations of each source.
            members: (source, conversation) of each conversation of the run, (n, 2).
            conversations: Numbers into `members` for each row.
            positions: See `pack`.
        """
        self.stores, self.members, self.conversations = stores, members, conversations
        self.positions = positions
        order = np.concatenate(conversations)
        starts = np.cumsum([0, *(len(row) for row in conversations[:-1])])
        lengths, targets = np.empty(len(members), np.int64), np.empty(len(members), np.int64)
        for i, store in enumerate(stores):
            of_source = members[:, 0] == i
            chosen = members[of_source, 1]
            lengths[of_source], targets[of_source] = store.lengths[chosen], store.num_target_tokens[chosen]
        self.lengths = np.add.reduceat(lengths[order], starts)
        self._target_tokens = np.add.reduceat(targets[order], starts)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.conversations)

    def __getitem__(self, i: int) -> Row:
        """Returns row i."""
        fragments = [self._fragment(*self.members[n].tolist()) for n in self.conversations[i]]
        return pack(fragments, positions=self.positions)

    def length(self, i: int) -> int:
        """Returns the number of tokens of row i."""
        return int(self.lengths[i])

    def num_target_tokens(self, numbers: NDArray[np.int64]) -> int:
        """Returns the number of target tokens of some rows together."""
        return int(self._target_tokens[numbers].sum())

    def _fragment(self, source: int, number: int) -> Fragment:
        store = self.stores[source]
        begin, end = store.starts[number : number + 2]
        return Fragment(store.tokens[begin:end], store.loss_mask[begin:end])
