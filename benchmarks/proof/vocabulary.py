"""The vocabulary of a small base: the pieces of ChatGLM3 that its text uses most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.tokenization.vocabulary import Piece, isolated_processor


def prune(
    full: spm.ModelProto, texts: Mapping[str, Iterable[str]], shares: Mapping[str, float], num_pieces: int
) -> spm.ModelProto:
    """Keeps the pieces that occur most often, and those that merges form on the way to them.

    Args:
        full: A BPE vocabulary.
        texts: Documents of each language.
        shares: Weight of each language.
        num_pieces: Number of normal pieces to keep; bytes and control pieces are kept, too.

    Raises:
        ValueError: If the texts use fewer pieces.
    """
    processor, frequencies = isolated_processor(full), Counter[int]()
    for lang, documents in texts.items():
        counts = Counter(token_id for text in documents for token_id in processor.encode(text))
        total = sum(counts.values())
        for token_id, count in counts.items():
            frequencies[token_id] += shares[lang] * count / total  # type: ignore[assignment]
    scores = {piece.piece: piece.score for piece in full.pieces if piece.type == Piece.NORMAL}
    kept: set[str] = set()
    for token_id, _ in frequencies.most_common():
        if len(kept) >= num_pieces:
            break
        if full.pieces[token_id].type == Piece.NORMAL:
            kept |= formed(full.pieces[token_id].piece, scores)
    if len(kept) < num_pieces:
        raise ValueError(f"the texts use {len(kept)} pieces of the vocabulary, fewer than {num_pieces}")
    pruned = spm.ModelProto()
    pruned.CopyFrom(full)
    del pruned.pieces[:]
    pruned.pieces.extend(piece for piece in full.pieces if piece.type != Piece.NORMAL or piece.piece in kept)
    pruned.trainer_spec.vocab_size = len(pruned.pieces)
    return pruned


def formed(piece: str, scores: Mapping[str, float]) -> set[str]:
    """Returns a piece and all pieces that the merges on the way to it form, its characters included."""
    symbols, found = list(piece), {piece}
    found.update(symbol for symbol in symbols if symbol in scores)
    while len(symbols) > 1:
        pairs = [a + b for a, b in pairwise(symbols)]
        ranked = [(scores[pair], -i) for i, pair in enumerate(pairs) if pair in scores]
        if not ranked:
            break
        best = -max(ranked)[1]
        symbols[best : best + 2] = [pairs[best]]
        found.add(pairs[best])
    return found
