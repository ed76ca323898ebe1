from collections import Counter
from itertools import groupby, islice, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glmja.tokenization.continued_bpe import BARRIER, MAX_PIECE_LEN, ContinuedBPE

ALPHABET = ["|", "a", "b", "c", "x", "y"]  # x and y make a piece admissible
DISTINGUISHING = {"x", "y"}


def admissible(text: str) -> bool:
    return not DISTINGUISHING.isdisjoint(text)


def naive_bpe(words: list[list[str]], num_pieces: int) -> list[tuple[str, int]]:
    """Recounts all pairs before every merge; of equal counts, the pair of the older symbols wins."""
    symbols, made = list(ALPHABET), []

    def merge(pair):
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = ["".join(pair)]
                i += 1

    while len(made) < num_pieces:
        counts = Counter(pair for word in words for pair in pairwise(word) if admissible("".join(pair)))
        for pair in counts:
            if pair[0] == pair[1]:
                counts[pair] = sum(
                    len(list(run)) // 2 for word in words for key, run in groupby(word) if key == pair[0]
                )
        joinable = [pair for pair in counts if counts[pair] >= 2 and len("".join(pair)) <= MAX_PIECE_LEN]
        if not joinable:
            break
        best = min(joinable, key=lambda pair: (-counts[pair], symbols.index(pair[0]), symbols.index(pair[1])))
        symbols.append("".join(best))
        made.append(("".join(best), counts[best]))
        merge(best)
    return made


def corpus_of(words: list[str]) -> np.ndarray:
    ids = [BARRIER]
    for word in words:
        ids += [ALPHABET.index(c) for c in word] + [BARRIER]
    return np.array(ids, dtype=np.int32)


def trainer(words: list[str], costs: list[int] | None = None) -> ContinuedBPE:
    distinguishing = np.array([symbol in DISTINGUISHING for symbol in ALPHABET])
    return ContinuedBPE(corpus_of(words), ALPHABET, costs or [1] * len(ALPHABET), distinguishing, admissible)


@given(st.lists(st.text("abcxy", min_size=1, max_size=12), min_size=1, max_size=8))
def test_each_piece_saves_as_many_tokens_as_reported(words):
    bpe = trainer(words)
    left = len(bpe.ids)
    for _, gain in bpe.pieces():
        assert (bpe.ids >= 0).sum() == left
        left -= gain
    assert (bpe.ids >= 0).sum() == left
    spelled = "".join(bpe.symbols[i] for i in bpe.ids[bpe.ids >= 0])
    assert spelled == "|" + "".join(word + "|" for word in words)


@given(st.lists(st.text("abxy", min_size=1, max_size=10), min_size=1, max_size=10))
def test_pieces_and_gains_are_those_of_a_recount_of_all_pairs(words):
    ours = list(islice(trainer(words).pieces(), 4))
    assert ours == naive_bpe([list(word) for word in words], 4)


def test_no_piece_joins_what_only_old_languages_have():
    assert [piece for piece, _ in trainer(["abab", "abab", "abx", "abx"]).pieces()] == ["bx", "abx"]


def test_a_missing_character_becomes_a_piece_before_it_is_joined():
    costs = [1, 1, 1, 1, 3, 1]  # x is spelled in three bytes
    assert list(trainer(["ax", "ax", "ax"], costs).pieces()) == [("x", 6), ("ax", 3)]


def test_a_repetition_counts_as_often_as_it_can_be_merged():
    assert next(trainer(["xxxxx"] * 2).pieces()) == ("xx", 4)


def test_repetitions_are_joined_from_the_left():
    bpe = trainer(["xxxxx"] * 2)
    assert next(bpe.pieces())[0] == "xx"
    list(bpe.pieces())
    assert "".join(bpe.symbols[i] for i in bpe.ids[bpe.ids >= 0]) == "|xxxxx|xxxxx|"


def test_pieces_stay_within_sixteen_characters():
    assert max(len(piece) for piece, _ in trainer(["x" * 200] * 3).pieces()) == 16
