"""Selects the pieces to add to a vocabulary: learned from a corpus, or taken from another SentencePiece model."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.tokenization.continued_bpe import BARRIER, ContinuedBPE, Ids
from glmja.tokenization.vocabulary import (
    Piece,
    append_pieces,
    contains_distinguishing,
    is_admissible,
    is_han,
    is_kana,
    parse_proto,
    unreachable_pieces,
)

_MAX_LINE = 10_000  # characters; longer lines are cut, so that a sample can hold parts of them
_BATCH = 250_000  # characters that are encoded, and later kept or dropped, together
_CUT_AFTER = ("。！？．!? 　\t", "、，,；;：")  # where a line is cut: after a sentence or a word, else after a clause


def is_joinable(character: str, join_punctuation: bool) -> bool:
    """Returns whether a learned piece may contain the character: kana, ideographs and, optionally, punctuation.

    Punctuation in ASCII is never joined.
    """
    if is_kana(character) or is_han(character) or character in "々〆〇":
        return True
    return join_punctuation and not character.isascii() and unicodedata.category(character)[0] == "P"


def learn_pieces(
    base: spm.ModelProto,
    documents: Iterable[str],
    num_pieces: int,
    policy: str = "japanese",
    join_punctuation: bool = True,
    max_training_tokens: int = 50_000_000,
    seed: int = 0,
) -> list[str]:
    """Continues the BPE training of a vocabulary on documents.

    Args:
        base: The vocabulary, control pieces included.
        documents: Texts; they are read once and kept with 4 bytes per token.
        num_pieces: Number of pieces to learn.
        policy: The policy that admits pieces.
        join_punctuation: Whether an admissible piece may contain punctuation (です。).
        max_training_tokens: Maximum number of tokens; of larger corpora, lines are sampled. Training takes about 60
            bytes per token.
        seed: Seed of the sample.

    Returns:
        The pieces in the order in which they were learned.

    Raises:
        DataError: If the documents have fewer admissible pieces that save at least two tokens.
        ValueError: If `max_training_tokens` is not positive.
    """
    if max_training_tokens < 1:
        raise ValueError(f"`max_training_tokens` ({max_training_tokens}) must be at least 1")
    # every missing character of the basic plane gets an id, so that one pass over the text suffices
    present = {piece.piece for piece in base.pieces}
    basic_plane = (chr(code) for code in range(0x80, 0x10000) if not 0xD800 <= code < 0xE000)
    missing = [c for c in basic_plane if is_joinable(c, join_punctuation) and c not in present]
    complete = append_pieces(base, missing)
    symbols = [piece.piece for piece in complete.pieces]
    joinable = np.array(
        [p.type == Piece.NORMAL and all(is_joinable(c, join_punctuation) for c in p.piece) for p in complete.pieces]
    )
    corpus = _encode_corpus(complete, joinable, documents, max_training_tokens, seed)
    distinguishing = joinable & np.array([contains_distinguishing(s, policy) for s in symbols])
    costs = [1] * len(base.pieces) + [len(c.encode()) for c in missing]
    trainer = ContinuedBPE(corpus, symbols, costs, distinguishing, lambda piece: is_admissible(piece, policy))
    learned: list[str] = []
    with progress("learning pieces", num_pieces, "pieces") as advance:
        for piece, _ in trainer.pieces():
            learned.append(piece)
            advance(1)
            if len(learned) == num_pieces:
                return learned
    raise DataError(
        f"the corpus has only {len(learned)} pieces to add under the policy {policy!r}, fewer than the {num_pieces} "
        "asked for; give a larger `corpus` or a smaller `num_new_pieces`"
    )


def _encode_corpus(
    proto: spm.ModelProto, joinable: np.ndarray, documents: Iterable[str], max_tokens: int, seed: int
) -> Ids:
    """Encodes the documents as one array of ids, with `BARRIER` between lines and for symbols that are not joinable.

    Whenever the array becomes too long, half of the batches are dropped and from then on half as many are kept, so that
    every batch of lines has the same probability to be in the sample. Batches are small beside `max_tokens`.
    """
    processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    symbol_of = np.where(joinable, np.arange(len(joinable)), BARRIER).astype(np.int32)
    rng, share, kept, total = random.Random(seed), 1.0, [np.array([BARRIER], dtype=np.int32)], 1
    for lines in _batches(_lines(documents), min(_BATCH, max_tokens // 32)):
        if rng.random() >= share:
            continue
        encoded = processor.encode(lines, num_threads=-1)
        ids = symbol_of[np.concatenate([np.array([*line, BARRIER], dtype=np.int32) for line in encoded])]
        kept.append(ids)
        total += len(ids)
        while total > max_tokens:
            # never to nothing: the last batch is cut instead
            kept = [kept[0], *rng.sample(kept[1:], (len(kept) - 1) // 2)] if len(kept) > 2 else [kept[1][:max_tokens]]
            share, total = share / 2, sum(map(len, kept))
    return np.concatenate(kept)


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


def ready_pieces(
    base: spm.ModelProto, model: str | Path, num_pieces: int, policy: str = "japanese"
) -> tuple[list[str], list[str], int]:
    """Takes the admissible pieces with the highest scores from a SentencePiece model.

    Args:
        base: The vocabulary to extend, control pieces included.
        model: File of the SentencePiece model.
        num_pieces: Number of pieces to take.
        policy: The policy that admits pieces.

    Returns:
        The pieces; the pieces that the policy rejects; and the number of pieces that the vocabulary already has, which
        keep their ids, or that occur twice in the model.

    Raises:
        ValueError: If the file is not a SentencePiece model, or has too few admissible pieces.
    """
    try:
        pieces = [p for p in parse_proto(Path(model).read_bytes()).pieces if p.type == Piece.NORMAL]
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from error
    present = {piece.piece for piece in base.pieces}
    new = list(dict.fromkeys(p.piece for p in sorted(pieces, key=lambda p: -p.score) if p.piece not in present))
    admitted = [piece for piece in new if is_admissible(piece, policy)]
    rejected = [piece for piece in new if not is_admissible(piece, policy)]
    candidates = _with_their_characters(admitted, present)
    while unreachable := set(unreachable_pieces(append_pieces(base, candidates[:num_pieces]), len(base.pieces))):
        candidates = [piece for piece in candidates if piece not in unreachable]
    if len(candidates) < num_pieces:
        raise ValueError(
            f"{model} has only {len(candidates)} reachable pieces to add under the policy {policy!r}, fewer than the "
            f"{num_pieces} asked for; give a smaller `num_new_pieces`"
        )
    return candidates[:num_pieces], rejected, len(pieces) - len(new)


def _with_their_characters(pieces: list[str], present: set[str]) -> list[str]:
    """Returns the pieces, each after those of its characters that the vocabulary lacks.

    A piece with a missing character that cannot be added itself is left out: Hugging Face's BPE looks up characters
    before it merges, and would encode that character as bytes.
    """
    admitted, complete = set(pieces), {}
    for piece in pieces:
        missing = [c for c in piece if c not in present]
        if all(c in admitted for c in missing):
            complete.update(dict.fromkeys([*missing, piece]))
    return list(complete)
