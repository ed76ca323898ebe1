"""Ways to add pieces to a vocabulary, each run in a process of its own: `python -m benchmarks.tokenizer.recipes`.

Besides ours: the known recipe (a Japanese SentencePiece model with its default options, whatever is new
appended with score 0), and the best that can be made of it by filtering and ranking what it learnt.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.files.documents import read_documents
from glmja.tokenization.piece_selection import learn_pieces, ready_pieces
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import Piece, append_pieces, parse_proto

_KNOWN_VOCABULARY = 20_460
_FILTERED_VOCABULARY = 34_000
_ASCII = re.compile(r"[\x00-\x7f]+")


@dataclass(frozen=True)
class Recipe:
    """One way.

    Attributes:
        kind: Which of the three.
        policy: Which pieces are admissible; None where the recipe has no such notion.
        join_punctuation: Whether a piece may hold punctuation beside kana; ours only.
    """

    kind: Literal["ours", "known", "filtered"]
    policy: str | None = None
    join_punctuation: bool = False

    def __str__(self) -> str:
        """How tables call it."""
        if self.kind == "ours":
            return f"ours, {self.policy}{', punctuation' if self.join_punctuation else ''}"
        return {"known": "known recipe, same text", "filtered": f"filter + append, {self.policy}"}[self.kind]


RECIPES = [
    *(Recipe("ours", policy, join) for policy in ("japanese", "shinjitai", "kana", "none") for join in (True, False)),
    Recipe("filtered", "japanese"),
    Recipe("known"),
]


def grow(recipe: Recipe, base: spm.ModelProto, text: Path, num_pieces: int) -> spm.ModelProto:
    """The base with the recipe's pieces appended."""
    documents = read_documents([text])
    if recipe.kind == "ours":
        policy = recipe.policy or "none"
        return append_pieces(base, learn_pieces(base, documents, num_pieces, policy, recipe.join_punctuation))
    if recipe.kind == "filtered":
        model = text.parent / "filtered.model"
        model.write_bytes(_train(_without_ascii(documents), _FILTERED_VOCABULARY, byte_fallback=True,
                                 split_digits=True, normalization_rule_name="identity"))  # fmt: skip
        return append_pieces(base, ready_pieces(base, model, num_pieces, recipe.policy or "none")[0])
    return _append_tied(base, parse_proto(_train(_lines(documents), _KNOWN_VOCABULARY)), num_pieces)


def _append_tied(base: spm.ModelProto, learnt: spm.ModelProto, num_pieces: int) -> spm.ModelProto:
    """The first pieces that the base lacks, all with score 0."""
    present = {piece.piece for piece in base.pieces}
    new = [p.piece for p in learnt.pieces if p.type == Piece.NORMAL and p.piece not in present][:num_pieces]
    if len(new) < num_pieces:
        raise ValueError(f"only {len(new)} of the pieces learnt are new; {num_pieces} are asked for")
    grown = spm.ModelProto()
    grown.CopyFrom(base)
    for piece in new:
        grown.pieces.add(piece=piece, score=0.0, type=Piece.NORMAL)
    grown.trainer_spec.vocab_size = len(grown.pieces)
    return grown


def _train(lines: Iterable[str], vocab_size: int, **options: Any) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size,
                               model_type="bpe", minloglevel=2, **options)  # fmt: skip
    return model.getvalue()


def _lines(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        yield from (line for line in document.split("\n") if line)


def _without_ascii(documents: Iterable[str]) -> Iterator[str]:
    for line in _lines(documents):
        yield from (run for run in _ASCII.split(line) if run)


def main() -> None:
    """Grows a tokenizer by one recipe."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--recipe", type=int, required=True, help="Number in RECIPES.")
    parser.add_argument("--base", required=True, help="Folder of the tokenizer to extend.")
    parser.add_argument("--text", type=Path, required=True, help="Training text, JSON lines.")
    parser.add_argument("--num_new_pieces", type=int, required=True, help="Pieces to add.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for tokenizer.model; it exists.")
    args = parser.parse_args()
    base = GLMTokenizer.load(args.base).proto
    GLMTokenizer(grow(RECIPES[args.recipe], base, args.text, args.num_new_pieces)).save(args.output)


if __name__ == "__main__":
    main()
