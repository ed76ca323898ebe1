"""The corpus that pieces are learned from: text as ids of symbols, sampled down to a number of tokens.

A symbol is a piece of the base, or a character that the base lacks and encodes as bytes. Such a character can become a
piece, whatever its number of bytes: SentencePiece looks up characters first, and only encodes those as bytes that are
no pieces. So 𠮟 (U+20B9F) is learned like 図.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.text.scripts import is_han, is_kana
from glmja.tokenization.continued_bpe import BARRIER, Ids
from glmja.tokenization.vocabulary import WORD_BOUNDARY, Piece, append_pieces, contains_distinguishing

_MAX_LINE = 10_000  # characters; longer lines are cut, so that a sample can hold parts of them
_BATCH = 250_000  # characters that are encoded, and later kept or dropped, together
_CUT_AFTER = ("。！？．!? 　\t", "、，,；;：")  # where a line is cut: after a sentence or a word, else after a clause
_END_OF_HAN = 0x40000  # the planes above 3 have no ideographs


@dataclass(frozen=True)
class TrainingCorpus:
    """A sample of a corpus as symbols.

    Attributes:
        ids: Ids of symbols, (T,), `BARRIER` between lines and for all that no new piece may contain.
        symbols: Text of each symbol.
        costs: Number of tokens of each symbol in the base: 1, or the number of bytes of a missing character.
        distinguishing: Whether a symbol makes every piece that contains it admissible, (S,).
        policy: The policy that admits pieces.
        num_characters: Characters of the sample.
        num_tokens: Its tokens in the base's vocabulary.
        is_whole: Whether nothing was left out.
    """

    ids: Ids
    symbols: list[str]
    costs: list[int]
    distinguishing: NDArray[np.bool_]
    policy: str
    num_characters: int
    num_tokens: int
    is_whole: bool


def read_corpus(
    base: spm.ModelProto,
    documents: Iterable[str],
    policy: str = "japanese",
    join_punctuation: bool = True,
    max_tokens: int = 30_000_000,
    seed: int = 0,
) -> TrainingCorpus:
    """Encodes documents with a vocabulary in which every missing character is a piece.

    Args:
        base: The vocabulary to extend, control pieces included.
        documents: Texts; they are read once.
        policy: The policy that admits pieces.
        join_punctuation: Whether a new piece may contain punctuation next to kana.
        max_tokens: Maximum number of tokens; of larger corpora, lines are sampled.
        seed: Seed of the sample.

    Raises:
        ValueError: If `max_tokens` is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"`max_training_tokens` ({max_tokens}) must be at least 1")
    present = {piece.piece for piece in base.pieces}
    missing = [c for c in _joinable_characters(join_punctuation) if c not in present]
    complete = append_pieces(base, missing)
    joinable = np.array([_is_joinable_piece(piece, join_punctuation) for piece in base.pieces] + [True] * len(missing))
    symbols = [piece.piece for piece in complete.pieces]
    costs = [1] * len(base.pieces) + [len(c.encode()) for c in missing]
    batches, is_whole = _sample(
        _encoded(complete, joinable, costs, documents, min(_BATCH, max_tokens // 32)), max_tokens, seed
    )
    return TrainingCorpus(
        ids=np.concatenate([np.array([BARRIER], dtype=np.int32), *(batch.ids for batch in batches)]),
        symbols=symbols,
        costs=costs,
        distinguishing=joinable & np.array([contains_distinguishing(symbol, policy) for symbol in symbols]),
        policy=policy,
        num_characters=sum(batch.num_characters for batch in batches),
        num_tokens=sum(batch.num_tokens for batch in batches),
        is_whole=is_whole,
    )


def is_joinable(character: str, join_punctuation: bool) -> bool:
    """Returns whether a learned piece may contain the character: kana, ideographs and, optionally, punctuation.

    Punctuation in ASCII is never joined.
    """
    if is_kana(character) or is_han(character) or character in "々〆〇":
        return True
    return join_punctuation and not character.isascii() and unicodedata.category(character)[0] == "P"


@cache
def _joinable_characters(join_punctuation: bool) -> tuple[str, ...]:
    """Returns all joinable characters, so that one pass over the text suffices."""
    assigned = (c for c in map(chr, range(0x80, _END_OF_HAN)) if unicodedata.category(c) not in ("Cn", "Cs", "Co"))
    return tuple(c for c in assigned if is_joinable(c, join_punctuation))


def _is_joinable_piece(piece: spm.ModelProto.SentencePiece, join_punctuation: bool) -> bool:
    word = piece.piece.removeprefix(WORD_BOUNDARY)
    return piece.type == Piece.NORMAL and all(is_joinable(c, join_punctuation) for c in word)


class _Batch(NamedTuple):
    ids: Ids  # (N,), each line followed by `BARRIER`
    num_characters: int
    num_tokens: int


def _encoded(
    proto: spm.ModelProto,
    joinable: NDArray[np.bool_],
    costs: list[int],
    documents: Iterable[str],
    num_characters: int,
) -> Iterator[Callable[[], _Batch]]:
    """Yields functions that encode a batch of lines, since not every batch will be in the sample.

    Symbols that are not joinable become `BARRIER`.
    """
    processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    symbol_of = np.where(joinable, np.arange(len(joinable)), BARRIER).astype(np.int32)
    cost_of = np.array(costs, dtype=np.int32)

    def encode(lines: list[str]) -> _Batch:
        encoded = processor.encode(lines, num_threads=-1)
        ids = np.concatenate([np.array([*line, BARRIER], dtype=np.int32) for line in encoded])
        return _Batch(symbol_of[ids], sum(map(len, lines)), int(cost_of[ids].sum()) - len(lines))

    for lines in _batches(_lines(documents), num_characters):
        yield partial(encode, lines)


def _sample(batches: Iterable[Callable[[], _Batch]], max_tokens: int, seed: int) -> tuple[list[_Batch], bool]:
    """Draws batches, so that they hold at most `max_tokens` ids with one more before them; says if these are all.

    Whenever there are too many, half of the batches are dropped and from then on half as many are kept, so that every
    batch of lines has the same probability to be in the sample. Batches are small beside `max_tokens`.
    """
    rng, share, total = random.Random(seed), 1.0, 1
    kept: list[_Batch] = []
    for batch in batches:
        if rng.random() >= share:
            continue
        kept.append(batch())
        total += len(kept[-1].ids)
        while total > max_tokens:
            # never to nothing: the last batch is cut instead
            kept = rng.sample(kept, len(kept) // 2) if len(kept) > 1 else [_cut(kept[0], max_tokens - 1)]
            share, total = share / 2, 1 + sum(len(batch.ids) for batch in kept)
    return kept, share == 1


def _cut(batch: _Batch, num_ids: int) -> _Batch:
    share = num_ids / len(batch.ids)
    return _Batch(batch.ids[:num_ids], round(batch.num_characters * share), round(batch.num_tokens * share))


def _lines(documents: Iterable[str]) -> Iterator[str]:
    """Yields the lines of documents; longer ones in parts that end with a sentence or a clause where there is one."""
    for document in documents:
        for line in document.split("\n"):
            start = 0
            while len(line) - start > _MAX_LINE:
                limit = start + _MAX_LINE
                ends = (max(line.rfind(mark, start, limit) for mark in marks) + 1 for marks in _CUT_AFTER)
                end = next(filter(None, ends), limit)
                yield line[start:end]
                start = end
            if start < len(line):
                yield line[start:]


def _batches(lines: Iterable[str], num_characters: int) -> Iterator[list[str]]:
    """Yields lists of lines with at least so many characters together, and the rest."""
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= num_characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
