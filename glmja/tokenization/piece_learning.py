"""Learns the pieces to add to a vocabulary from a corpus."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from glmja.errors import DataError
from glmja.files.progress import progress
from glmja.tokenization.continued_bpe import BARRIER, ContinuedBPE
from glmja.tokenization.learning_curve import BLOCK, FEW_USES, LearningCurve
from glmja.tokenization.training_corpus import TrainingCorpus
from glmja.tokenization.vocabulary import is_admissible

MIN_GAIN = 0.005


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
        curve: What the pieces save, if they were learned.
    """

    pieces: list[str]
    rejected: list[str] = field(default_factory=list)
    num_present: int = 0
    unreachable: list[str] = field(default_factory=list)
    num_steps: int = 0
    curve: LearningCurve | None = None


def learn_pieces(
    corpus: TrainingCorpus,
    num_pieces: int | None,
    min_gain: float = MIN_GAIN,
    exclude: Set[str] = frozenset(),
) -> SelectedPieces:
    """Continues the BPE training of a vocabulary on a corpus.

    Up to `BLOCK` more pieces than needed are learned, to know what they would save.

    Args:
        corpus: The corpus; its ids are modified.
        num_pieces: Number of pieces to learn; None stops where the next `BLOCK` save less than `min_gain`.
        min_gain: Share of the tokens that `BLOCK` more pieces must save.
        exclude: Texts that may not become pieces; others take their places.

    Returns:
        The pieces in the order in which they were learned, and what they save.

    Raises:
        TooFewPiecesError: If the corpus has fewer admissible pieces that save at least two tokens.
        ValueError: If `min_gain` is not a share.
    """
    if not 0 < min_gain < 1:
        raise ValueError(f"`min_gain` ({min_gain}) must be between 0 and 1")
    trainer = ContinuedBPE(
        corpus.ids,
        corpus.symbols,
        corpus.costs,
        corpus.distinguishing,
        lambda piece: piece not in exclude and is_admissible(piece, corpus.policy),
    )
    pieces: list[str] = []
    gains: list[int] = []
    selected, num_rare = (0 if num_pieces is None else num_pieces), 0
    with progress("learning pieces", selected + BLOCK if num_pieces else 0, "pieces") as advance:
        # a piece is merged when the next one is asked for
        for piece, gain in chain(trainer.pieces(), [("", 0)]):
            at_end = not piece or (len(pieces) == selected if num_pieces else len(pieces) % BLOCK == 0)
            if num_pieces is None and at_end and pieces:
                if _saves_too_little(gains, selected, corpus.num_tokens, min_gain):
                    break
                selected = len(pieces)
            if at_end and len(pieces) == selected:
                num_rare = _count_rare(trainer, pieces)
            if not piece or len(pieces) == selected + BLOCK:
                break
            pieces.append(piece)
            gains.append(gain)
            advance(1)
    what, more = "the corpus", "a larger `corpus`"
    if not corpus.is_whole:
        what, more = "the sample of the corpus", "more `max_training_tokens`"
    if len(pieces) < max(1, selected):
        raise TooFewPiecesError(
            f"{what} has only {len(pieces)} pieces to add under the policy {corpus.policy!r}, fewer than the "
            f"{selected or 1} asked for; give {more} or a smaller `num_new_pieces`"
        )
    if not selected:
        raise TooFewPiecesError(
            f"the first {len(pieces)} pieces save less than `min_gain` ({min_gain}) of the tokens; give {more} "
            "or a smaller `min_gain`"
        )
    curve = LearningCurve(corpus.num_characters, corpus.num_tokens, gains, selected, num_rare)
    return SelectedPieces(pieces[:selected], curve=curve)


def _saves_too_little(gains: Sequence[int], start: int, num_tokens: int, min_gain: float) -> bool:
    """Returns whether the pieces from `start` on, a block or fewer, save less than a share of the tokens before."""
    return sum(gains[start:]) < min_gain * (num_tokens - sum(gains[:start]))


def _count_rare(trainer: ContinuedBPE, pieces: Sequence[str]) -> int:
    """Returns how many pieces occur fewer than `FEW_USES` times as symbols of the corpus."""
    uses = np.bincount(trainer.ids[trainer.ids > BARRIER], minlength=len(trainer.symbols))
    return int((uses[[trainer.id_of[piece] for piece in pieces]] < FEW_USES).sum()) if pieces else 0
