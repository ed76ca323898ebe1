"""Ways to add pieces to a vocabulary, each run in its own process: `python -m benchmarks.tokenizer.recipes`.

- `glmja`: continued byte-pair encoding, as `build_tokenizer` does.
- `known`: a Japanese SentencePiece model with default options, whose new pieces are appended with score 0.
- `filtered`: the best variant of it, whose pieces are filtered by a policy and ranked.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.tokenization.piece_learning import learn_pieces
from glmja.tokenization.ready_pieces import ready_pieces
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.training_corpus import read_corpus
from glmja.tokenization.vocabulary import Piece, append_pieces, parse_proto

_KNOWN_VOCABULARY = 20_460
_FILTERED_VOCABULARY = 34_000
_ASCII = re.compile(r"[\x00-\x7f]+")


@dataclass(frozen=True)
class Recipe:
    """A way to add pieces.

    Attributes:
        kind: Method.
        policy: Policy that pieces must meet; None where the method has none.
        join_punctuation: Whether a piece may contain punctuation beside kana (`glmja` only).
    """

    kind: Literal["glmja", "known", "filtered"]
    policy: str | None = None
    join_punctuation: bool = False

    def __str__(self) -> str:
        """Returns the name shown in tables."""
        if self.kind == "glmja":
            return f"glmja, {self.policy}{', punctuation' if self.join_punctuation else ''}"
        return {"known": "known recipe, same text", "filtered": f"filter + append, {self.policy}"}[self.kind]


RECIPES = [
    *(Recipe("glmja", policy, join) for policy in ("japanese", "shinjitai", "kana", "none") for join in (True, False)),
    Recipe("filtered", "japanese"),
    Recipe("known"),
]


def grow(recipe: Recipe, base: spm.ModelProto, text: Path, num_pieces: int) -> spm.ModelProto:
    """Appends the recipe's pieces to the base."""
    documents = read_documents([text])
    if recipe.kind == "glmja":
        corpus = read_corpus(base, documents, recipe.policy or "none", recipe.join_punctuation)
        return append_pieces(base, learn_pieces(corpus, num_pieces).pieces)
    if recipe.kind == "filtered":
        model = text.parent / "filtered.model"
        model.write_bytes(_train(_without_ascii(documents), _FILTERED_VOCABULARY, byte_fallback=True,
                                 split_digits=True, normalization_rule_name="identity"))  # fmt: skip
        return append_pieces(base, ready_pieces(base, model, num_pieces, recipe.policy or "none").pieces)
    return append_known(base, documents, num_pieces, _KNOWN_VOCABULARY)


def append_known(base: spm.ModelProto, documents: Iterable[str], num_pieces: int, vocab_size: int) -> spm.ModelProto:
    """Appends pieces as the known recipe does: those of a vocabulary of its own, trained with default options.

    Args:
        base: Vocabulary to extend.
        documents: Japanese text.
        num_pieces: Number of pieces to append.
        vocab_size: Size of the vocabulary that they are taken from.

    Raises:
        ValueError: If that has too few new pieces.
    """
    return _append_tied(base, parse_proto(_train(_lines(documents), vocab_size)), num_pieces)


def _append_tied(base: spm.ModelProto, trained: spm.ModelProto, num_pieces: int) -> spm.ModelProto:
    """Appends the first pieces that the base lacks, all with score 0."""
    present = {piece.piece for piece in base.pieces}
    new = [p.piece for p in trained.pieces if p.type == Piece.NORMAL and p.piece not in present][:num_pieces]
    if len(new) < num_pieces:
        raise ValueError(f"only {len(new)} of the trained pieces are new; num_pieces is {num_pieces}")
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


def main(args: Sequence[str] | None = None) -> None:
    """Extends a tokenizer with one recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=int, required=True, help="Index in RECIPES.")
    parser.add_argument("--base", required=True, help="Folder of the tokenizer to extend.")
    parser.add_argument("--text", type=Path, required=True, help="Training text as JSON lines.")
    parser.add_argument("--num_new_pieces", type=int, required=True, help="Number of pieces to add.")
    parser.add_argument("--output", type=Path, required=True, help="Existing folder for tokenizer.model.")
    options = parser.parse_args(args)
    base = load_tokenizer(options.base).proto
    GLMTokenizer(grow(RECIPES[options.recipe], base, options.text, options.num_new_pieces)).save(options.output)


if __name__ == "__main__":
    main()
