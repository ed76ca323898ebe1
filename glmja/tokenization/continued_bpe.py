"""Continues byte-pair encoding from an existing vocabulary.

Training a separate vocabulary on Japanese text and appending it wastes pieces: many duplicate old merges or are made
unreachable by them. Here the text is first segmented with the old vocabulary; then pairs of neighbors are counted and
merged, the pair that saves the most tokens first (BPE: Sennrich et al. 2016, https://aclanthology.org/P16-1162). New
merges rank below all old ones, so this segmentation is that of the finished tokenizer: every piece is reachable, and
the number of tokens that it saves is exact.

The corpus is one array of symbol ids in a doubly linked list; a merge only touches the positions of its pair.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

BARRIER = 0  # id of all symbols that no new piece may contain
MAX_PIECE_LEN = 16  # characters; the default of SentencePiece
_MERGED_AWAY = -1
_NUM_GROUPS = 16  # sorting all pairs at once would take twice the memory
_MIN_COUNT = 2  # a pair never becomes more frequent, so a pair that occurs once can be dropped

Ids = NDArray[np.int32]


class ContinuedBPE:
    """Merges neighboring symbols of a corpus, the pair that saves the most tokens first."""

    def __init__(
        self,
        corpus: Ids,
        symbols: list[str],
        costs: list[int],
        distinguishing: NDArray[np.bool_],
        admissible: Callable[[str], bool],
    ) -> None:
        """Counts the pairs of the corpus.

        Args:
            corpus: Symbol ids of the whole corpus, (T,), segmented with the old vocabulary; begins and ends with
                `BARRIER`. Modified in place.
            symbols: Text of each symbol id.
            costs: Number of tokens of each symbol in the old vocabulary: 1, or the number of bytes of a missing
                character. A missing character has to become a piece before it can be merged.
            distinguishing: Whether a symbol makes every piece that contains it admissible, (S,).
            admissible: Returns whether a text may become a piece.
        """
        self.ids = corpus
        self.symbols = list(symbols)
        self.costs = costs
        self.admissible = admissible
        self.id_of = {text: i for i, text in enumerate(symbols) if costs[i] == 1}
        self.distinguishing = distinguishing
        self.known = np.array([cost == 1 for cost in costs])
        self.known[BARRIER] = False
        self.next = np.arange(1, len(corpus) + 1, dtype=np.int32)
        self.previous = np.arange(-1, len(corpus) - 1, dtype=np.int32)
        self.counts: dict[int, int] = {}
        self.places: dict[int, list[Ids]] = {}
        self.heap: list[tuple[int, int]] = []  # (-saved tokens, pair key; or -1 - id of a missing character)
        for group in range(_NUM_GROUPS):  # all places of a pair are in one group, so its count is complete
            self._count_pairs(np.flatnonzero(corpus[:-1] % _NUM_GROUPS == group).astype(np.int32))
        self._count_missing_characters()

    def pieces(self) -> Iterator[tuple[str, int]]:
        """Learns pieces as long as a piece saves tokens.

        Yields:
            The text of a new piece, and the number of tokens that it saves on the corpus.
        """
        while self.heap:
            negative_gain, key = heapq.heappop(self.heap)
            if key < 0:
                character = -1 - key
                if self.admissible(self.symbols[character]):
                    yield self.symbols[character], -negative_gain
                    self._learn_character(character)
                continue
            count = self.counts.get(key, 0)
            left, right = key >> 32, key & 0xFFFFFFFF
            if left == right:
                count = self.counts[key] = len(self._places_of(key))  # あああ has two pairs ああ; one can be merged
            text = self.symbols[left] + self.symbols[right]
            if count < -negative_gain:
                self._push(key, count)
            elif len(text) <= MAX_PIECE_LEN and self.admissible(text):
                # the same characters between two token borders have been merged in the same way everywhere
                assert text not in self.id_of
                yield text, count
                self._merge(key, self._new_symbol(text))

    def _push(self, key: int, count: int) -> None:
        if count >= _MIN_COUNT:
            heapq.heappush(self.heap, (-count, key))

    def _new_symbol(self, text: str) -> int:
        new = len(self.symbols)
        self.symbols.append(text)
        self.id_of[text] = new
        if new >= len(self.known):
            self.known = np.append(self.known, np.zeros(len(self.known), dtype=bool))
            self.distinguishing = np.append(self.distinguishing, np.zeros(len(self.distinguishing), dtype=bool))
        self.known[new] = self.distinguishing[new] = True
        return new

    def _pair_keys(self, starts: Ids) -> tuple[Ids, NDArray[np.int64]]:
        """Returns the starts and keys of those pairs beginning at `starts` that may be merged."""
        left, right = self.ids[starts], self.ids[self.next[starts]]
        joinable = self.known[left] & self.known[right] & (self.distinguishing[left] | self.distinguishing[right])
        return starts[joinable], left[joinable].astype(np.int64) << 32 | right[joinable]

    def _count_pairs(self, starts: Ids) -> None:
        starts, keys = self._pair_keys(starts)
        order = np.argsort(keys, kind="stable")
        keys, starts = keys[order], starts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(first, append=len(keys))
        frequent = counts >= _MIN_COUNT
        for key, begin, count in zip(
            keys[first][frequent].tolist(), first[frequent].tolist(), counts[frequent].tolist(), strict=True
        ):
            # copied, so that a rare pair does not keep the array of all pairs alive
            self.places.setdefault(key, []).append(starts[begin : begin + count].copy())
            self.counts[key] = self.counts.get(key, 0) + count
            self._push(key, self.counts[key])

    def _forget_pairs(self, starts: Ids) -> None:
        keys, counts = np.unique(self._pair_keys(starts)[1], return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            if key in self.counts:
                self.counts[key] -= count

    def _count_missing_characters(self) -> None:
        places = np.flatnonzero(~self.known[self.ids] & (self.ids != BARRIER)).astype(np.int32)
        places = places[np.argsort(self.ids[places], kind="stable")]
        characters, first, counts = np.unique(self.ids[places], return_index=True, return_counts=True)
        for character, begin, count in zip(characters.tolist(), first.tolist(), counts.tolist(), strict=True):
            self.places[-1 - character] = [places[begin : begin + count].copy()]
            heapq.heappush(self.heap, (-count * (self.costs[character] - 1), -1 - character))

    def _learn_character(self, character: int) -> None:
        self.known[character] = True
        self.id_of[self.symbols[character]] = character
        (places,) = self.places.pop(-1 - character)
        self._count_pairs(np.union1d(places, self.previous[places]))

    def _places_of(self, key: int) -> Ids:
        """Returns the current positions of a pair, without overlaps."""
        left, right = key >> 32, key & 0xFFFFFFFF
        places = np.unique(np.concatenate(self.places[key]))
        places = places[(self.ids[places] == left) & (self.ids[self.next[places]] == right)]
        return self._without_overlaps(places) if left == right else places

    def _merge(self, key: int, merged: int) -> None:
        places = self._places_of(key)
        del self.places[key], self.counts[key]
        second = self.next[places]
        self._forget_pairs(np.union1d(self.previous[places], second))
        after = self.next[second]
        self.ids[places], self.ids[second] = merged, _MERGED_AWAY
        self.next[places], self.previous[after] = after, places
        self._count_pairs(np.union1d(self.previous[places], places))

    def _without_overlaps(self, places: Ids) -> Ids:
        """Returns every other pair of a run of equal symbols (あああ), from the left."""
        kept, taken = [], -1
        for place in places.tolist():
            if place != taken:
                kept.append(place)
                taken = int(self.next[place])
        return np.array(kept, dtype=np.int32)
