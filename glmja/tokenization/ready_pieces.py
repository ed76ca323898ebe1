"""Selects the pieces of a file that a vocabulary can take.

Byte-pair encoding forms a piece by merges of two pieces, so a piece needs others that lead to it. A vocabulary has most
of them; where they were not admissible, the piece is left out. The words of a list have none of them, so these steps
are added before each word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from itertools import pairwise
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import DataError
from glmja.tokenization.piece_files import is_word_list, read_pieces
from glmja.tokenization.piece_learning import SelectedPieces
from glmja.tokenization.vocabulary import Piece, append_pieces, is_admissible, unreachable_pieces


def ready_pieces(
    base: spm.ModelProto,
    path: str | Path,
    num_pieces: int | None = None,
    policy: str = "japanese",
    exclude: Set[str] = frozenset(),
) -> SelectedPieces:
    """Takes the admissible pieces with the highest ranks from a file.

    Args:
        base: The vocabulary to extend, control pieces included.
        path: The file, as `read_pieces` takes it.
        num_pieces: Number of pieces to take, with the steps to them; all if None.
        policy: The policy that admits pieces.
        exclude: Texts that may not become pieces; others take their places.

    Returns:
        The pieces, and what was left out.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read, or has too few admissible pieces.
    """

    def admits(piece: str) -> bool:
        return piece not in exclude and is_admissible(piece, policy)

    given = read_pieces(path)
    present = {piece.piece for piece in base.pieces}
    new = list(dict.fromkeys(piece for piece in given if piece not in present))
    admitted = list(filter(admits, new))
    if is_word_list(path):
        candidates = list(_with_steps(base, admitted, admits))
    else:
        candidates = _with_their_characters(admitted, present)
    end = len(candidates) if num_pieces is None else num_pieces
    while unreachable := set(unreachable_pieces(append_pieces(base, candidates[:end]), len(base.pieces))):
        candidates = [piece for piece in candidates if piece not in unreachable]
    if len(candidates) < (1 if num_pieces is None else num_pieces):
        asked = f"the {num_pieces} asked for; give a smaller `num_new_pieces`" if num_pieces else "one"
        raise DataError(
            f"{path} has only {len(candidates)} reachable pieces to add under the policy {policy!r}, fewer than {asked}"
        )
    taken = candidates[:end]
    return SelectedPieces(
        taken,
        rejected=[piece for piece in new if not is_admissible(piece, policy)],
        num_present=len(given) - len(new),
        unreachable=sorted(set(admitted) - set(candidates)),
        num_steps=len(set(taken) - set(admitted)),
    )


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


def _with_steps(base: spm.ModelProto, words: Iterable[str], admits: Callable[[str], bool]) -> Iterator[str]:
    """Yields the words, each after the pieces that lead to it: its missing characters, and merges of two tokens.

    Words are left out if they have a character that can be no piece, or steps that are not admissible.
    """
    scores = {p.piece: p.score for p in base.pieces if p.type == Piece.NORMAL}
    lowest = min(p.score for p in base.pieces)
    num_new = 0
    for word in words:
        steps = [character for character in dict.fromkeys(word) if character not in scores]
        tokens = _segment(word, scores)
        start = next((i for i, token in enumerate(tokens) if admits(token)), None)
        if start is None:  # the first of two tokens that make an admissible one
            start = next((i for i in range(len(tokens) - 1) if admits(tokens[i] + tokens[i + 1])), 0)
        merged = tokens[start]
        for token in tokens[start + 1 :]:
            merged += token
            steps.append(merged)
        for token in reversed(tokens[:start]):
            merged = token + merged
            steps.append(merged)
        steps = [step for step in steps if step not in scores]
        if all(map(admits, steps)):
            for step in steps:
                num_new += 1
                scores[step] = lowest - num_new
                yield step


def _segment(word: str, scores: dict[str, float]) -> list[str]:
    """Returns the tokens of a word that stands alone: of all pairs that make a piece, the best is merged first."""
    tokens = list(word)
    while True:
        pairs = [left + right for left, right in pairwise(tokens)]
        best = max((pair for pair in pairs if pair in scores), key=scores.__getitem__, default=None)
        if best is None:
            return tokens
        at = pairs.index(best)
        tokens[at : at + 2] = [best]
