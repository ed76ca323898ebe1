"""Learns the pieces to add to a vocabulary from a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.tokenization.continued_bpe import ContinuedBPE
from glmja.tokenization.training_corpus import TrainingCorpus
from glmja.tokenization.vocabulary import is_admissible


class TooFewPiecesError(DataError):
    """Raised when a corpus has fewer admissible pieces than asked for."""


@dataclass(frozen=True)
class SelectedPieces:
    """Pieces to add to a vocabulary.

    Attributes:
        pieces: The pieces, by rank.
        rejected: Given pieces that the policy rejects.
        num_present: Number of given pieces that the vocabulary already has, which keep their ids, or that occur twice.
        unreachable: Given pieces that no merges lead to, and that are therefore left out.
        num_steps: Number of pieces that were not given, but lead to given ones.
    """

    pieces: list[str]
    rejected: list[str] = field(default_factory=list)
    num_present: int = 0
    unreachable: list[str] = field(default_factory=list)
    num_steps: int = 0


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
