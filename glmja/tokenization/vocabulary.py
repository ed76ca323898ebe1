"""Appends pieces to a SentencePiece vocabulary without changing the existing ones.

BPE only emits substrings of its input. If every added piece contains a character that a text does not contain, no
added piece can occur in the segmentation of that text; and if no old piece, score or id changed, the text is tokenized
exactly as before. This is a property of the finished vocabulary, not a result on samples: `check_premises` verifies its
conditions on the saved file. A space is a character like any other: a piece may begin with one if it has a kana, which
the text does not contain. The cost: compounds of characters that the protected languages share (東京, 大学) cannot be
added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.text.scripts import can_encode, is_han, is_kana

Piece = spm.ModelProto.SentencePiece

WORD_BOUNDARY = "\u2581"  # SentencePiece writes a space as this character


# A character is distinguishing under a policy if text of the protected languages does not contain it.
POLICIES: dict[str, Callable[[str], bool]] = {
    "japanese": lambda c: is_kana(c) or (is_han(c) and not can_encode(c, "gb2312")),
    "shinjitai": lambda c: is_kana(c) or (is_han(c) and not can_encode(c, "gb2312") and not can_encode(c, "big5")),
    "kana": is_kana,
    "none": lambda c: True,
}


@lru_cache(maxsize=1 << 17)
def is_distinguishing(character: str, policy: str) -> bool:
    """Returns whether text that the policy protects never contains the character."""
    return POLICIES[policy](character)


def contains_distinguishing(text: str, policy: str) -> bool:
    """Returns whether any character of the text is distinguishing, so that its tokenization may change."""
    return any(is_distinguishing(c, policy) for c in text)


def is_admissible(piece: str, policy: str) -> bool:
    """Returns whether the policy admits the piece: it has a distinguishing character and no ASCII.

    A piece may begin with `▁`, a space, if it has a kana: `▁この` saves the lone `▁` at the head of a text. It is no
    exception to the theorem, since a text without the kana cannot contain the piece. The policy `none` admits every
    piece.
    """
    if policy == "none":
        return True
    word = piece.removeprefix(WORD_BOUNDARY)
    if WORD_BOUNDARY in word or any(c.isascii() for c in word) or not contains_distinguishing(word, policy):
        return False
    return word == piece or any(map(is_kana, word))


def parse_proto(serialized: bytes) -> spm.ModelProto:
    """Parses a SentencePiece model.

    Raises:
        ModelError: If the bytes are not a SentencePiece model, or not a whole one.
    """
    proto = spm.ModelProto()
    try:
        proto.ParseFromString(serialized)
    except Exception as error:  # google.protobuf.message.DecodeError, without depending on protobuf's layout
        raise ModelError(f"not a SentencePiece model ({error})") from error
    if not proto.pieces:
        raise ModelError("not a SentencePiece model (it has no pieces)")
    if not proto.HasField("trainer_spec"):
        raise ModelError("not a whole SentencePiece model (it has no trainer_spec); copy the file again")
    return proto


def append_pieces(proto: spm.ModelProto, pieces: Iterable[str]) -> spm.ModelProto:
    """Returns a copy of the model with normal pieces appended, in order of rank.

    Scores continue below the lowest score of the model, so that all merges of the model come first, all scores are
    distinct, and the order of the new merges is preserved.
    """
    extended = spm.ModelProto()
    extended.CopyFrom(proto)
    lowest = min(piece.score for piece in proto.pieces)
    for rank, piece in enumerate(pieces, start=1):
        extended.pieces.add(piece=piece, score=lowest - rank, type=Piece.NORMAL)
    extended.trainer_spec.vocab_size = len(extended.pieces)
    return extended


def unreachable_pieces(proto: spm.ModelProto, first_id: int) -> list[str]:
    """Returns the normal pieces from `first_id` on that occur in no segmentation of any text.

    A piece is formed only by merges within its span, and these run as if the piece were the whole text. So a piece is
    reachable if and only if its own text is encoded as that piece; and since an unreachable piece is never formed,
    removing it changes no segmentation.
    """
    processor = isolated_processor(proto)
    texts = {i: piece.piece for i, piece in enumerate(proto.pieces) if i >= first_id and piece.type == Piece.NORMAL}
    encoded = processor.encode(list(texts.values()))
    return [text for (i, text), ids in zip(texts.items(), encoded, strict=True) if ids != [i]]


def isolated_processor(proto: spm.ModelProto) -> SentencePieceProcessor:
    """Returns a processor that does not prepend a space, to encode parts of words."""
    bare = spm.ModelProto()
    bare.CopyFrom(proto)
    bare.normalizer_spec.add_dummy_prefix = False
    return SentencePieceProcessor(model_proto=bare.SerializeToString())


def check_premises(old: spm.ModelProto, new: spm.ModelProto, policy: str) -> list[str]:
    """Verifies on a finished model that text without distinguishing characters is tokenized as before.

    Control pieces may be added, too: SentencePiece yields them for no text.

    Args:
        old: The model that was extended, control pieces included.
        new: The finished model.
        policy: The policy that defines distinguishing characters.

    Returns:
        The conditions that are violated, one line each; empty if the property holds.
    """
    num_old, failures = len(old.pieces), []
    added = [p for p in list(new.pieces)[num_old:] if p.type != Piece.CONTROL]
    for i, (before, after) in enumerate(zip(old.pieces, new.pieces, strict=False)):
        if before != after:
            failures.append(f"piece {i} was {before.piece!r} with score {before.score}, now {after.piece!r}")
    if len(new.pieces) < num_old:
        failures.append(f"{num_old - len(new.pieces)} old pieces are missing")
    if old.normalizer_spec != new.normalizer_spec:
        failures.append("the normalizer changed")
    failures += [
        f"piece {p.piece!r} is neither a normal piece nor a control token" for p in added if p.type != Piece.NORMAL
    ]
    failures += [f"piece {p.piece!r} is not admissible" for p in added if not is_admissible(p.piece, policy)]
    lowest = min(p.score for p in old.pieces)
    failures += [f"piece {p.piece!r} outranks an old piece" for p in added if p.score >= lowest]
    if len({p.piece for p in new.pieces}) != len(new.pieces):
        failures.append("two pieces are equal")
    if len({p.score for p in added}) != len(added):
        failures.append("two new pieces have the same score")
    if not failures:  # SentencePiece rejects some models that fail the conditions above
        failures += [f"piece {piece!r} is unreachable" for piece in unreachable_pieces(new, num_old)]
    return failures
