"""Selects the pieces to add to a vocabulary: learned from a corpus, or taken from another SentencePiece model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.tokenization.continued_bpe import ContinuedBPE
from glmja.tokenization.training_corpus import TrainingCorpus
from glmja.tokenization.vocabulary import Piece, append_pieces, is_admissible, parse_proto, unreachable_pieces


class TooFewPiecesError(DataError):
    """Raised when a corpus has fewer admissible pieces than asked for."""


@dataclass(frozen=True)
class SelectedPieces:
    """Pieces to add to a vocabulary.

    Attributes:
        pieces: The pieces, by rank.
        rejected: Given pieces that the policy rejects.
        num_present: Number of given pieces that the vocabulary already has, which keep their ids, or that occur twice.
    """

    pieces: list[str]
    rejected: list[str] = field(default_factory=list)
    num_present: int = 0


def learn_pieces(corpus: TrainingCorpus, num_pieces: int) -> SelectedPieces:
    """Continues the BPE training of a vocabulary on a corpus.

    Args:
        corpus: The corpus; its ids are modified.
        num_pieces: Number of pieces to learn.

    Returns:
        The pieces in the order in which they were learned.

    Raises:
        TooFewPiecesError: If the corpus has fewer admissible pieces that save at least two tokens.
    """
    trainer = ContinuedBPE(
        corpus.ids,
        corpus.symbols,
        corpus.costs,
        corpus.distinguishing,
        lambda piece: is_admissible(piece, corpus.policy),
    )
    learned: list[str] = []
    with progress("learning pieces", num_pieces, "pieces") as advance:
        for piece, _ in trainer.pieces():
            learned.append(piece)
            advance(1)
            if len(learned) == num_pieces:
                return SelectedPieces(learned)
    raise TooFewPiecesError(
        f"the corpus has only {len(learned)} pieces to add under the policy {corpus.policy!r}, fewer than the "
        f"{num_pieces} asked for; give a larger `corpus` or a smaller `num_new_pieces`"
    )


def ready_pieces(base: spm.ModelProto, model: str | Path, num_pieces: int, policy: str = "japanese") -> SelectedPieces:
    """Takes the admissible pieces with the highest scores from a SentencePiece model.

    Args:
        base: The vocabulary to extend, control pieces included.
        model: File of the SentencePiece model.
        num_pieces: Number of pieces to take.
        policy: The policy that admits pieces.

    Returns:
        The pieces, and what was not taken.

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
    return SelectedPieces(candidates[:num_pieces], rejected, len(pieces) - len(new))


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
