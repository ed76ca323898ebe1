"""Selects the pieces to add to a vocabulary: learned from a corpus, or taken from another SentencePiece model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.tokenization.continued_bpe import ContinuedBPE
from glmja.tokenization.training_corpus import read_corpus
from glmja.tokenization.vocabulary import Piece, append_pieces, is_admissible, parse_proto, unreachable_pieces


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
    corpus = read_corpus(base, documents, policy, join_punctuation, max_training_tokens, seed)
    trainer = ContinuedBPE(
        corpus.ids, corpus.symbols, corpus.costs, corpus.distinguishing, lambda piece: is_admissible(piece, policy)
    )
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
