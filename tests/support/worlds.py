"""Stores in memory, for tests of packing and batching."""

import numpy as np


class Documents:
    """A store of documents in which each token id is unique, so that no two can be confused."""

    def __init__(self, lengths, first=1):
        self.starts = np.cumsum([0, *lengths])
        self.lengths = np.array(lengths, dtype=np.int64)
        self.tokens = np.arange(first, first + self.starts[-1], dtype=np.uint32)

    def document(self, i):
        return self.tokens[self.starts[i] : self.starts[i + 1]].tolist()


class Conversations(Documents):
    """A chat store in memory: all tokens of a conversation but the first are target tokens."""

    def __init__(self, lengths, first=1):
        super().__init__(lengths, first)
        self.loss_mask = np.ones(len(self.tokens), dtype=np.bool_)
        self.loss_mask[self.starts[:-1]] = False
        self.num_target_tokens = self.lengths - 1
