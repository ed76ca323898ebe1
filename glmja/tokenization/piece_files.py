"""Reads pieces from files: a SentencePiece model, a `tokenizer.json` of Hugging Face, or a list of words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tokenizers import decoders

from glmja.errors import DataError, ModelError
from glmja.files.compression import without_compression
from glmja.files.input_files import Kind, check_is_data, find_files
from glmja.files.json_files import read_json
from glmja.files.records import read_records
from glmja.tokenization.vocabulary import WORD_BOUNDARY, Piece, parse_proto

_WORDS: tuple[Kind, ...] = ("text",)


def is_word_list(path: str | Path) -> bool:
    """Returns whether a file is a list of words, by its suffix, `.txt`."""
    return without_compression(Path(path)).suffix.lower() == ".txt"


def read_pieces(path: str | Path) -> list[str]:
    """Reads the pieces of a file, by rank, with `▁` for a space; bytes and control pieces are left out.

    Args:
        path: A list of words, one a line (`.txt`, also compressed), a `tokenizer.json` with a BPE or Unigram vocabulary
            (`.json`), or a SentencePiece model.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is of another kind, or damaged.
    """
    if is_word_list(path):
        return read_words(path)
    if Path(path).suffix.lower() == ".json":
        return list(_pieces_of_json(Path(path)))
    check_is_data(path)
    try:
        pieces = [p for p in parse_proto(Path(path).read_bytes()).pieces if p.type == Piece.NORMAL]
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    return [p.piece for p in sorted(pieces, key=lambda p: -p.score)]


def read_words(path: str | Path) -> list[str]:
    """Reads a list of words, one a line, without the white space around them; blank lines are skipped.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is no text, or has no words.
    """
    with closing(read_records(find_files([path], _WORDS))) as records:
        words = [str(line).strip() for _, line in records]
    if not words:
        raise DataError(f"{path}: no words; write one a line")
    return words


def _pieces_of_json(path: Path) -> Iterator[str]:
    content = read_json(path)
    model = content.get("model")
    ranked = _by_rank(model) if isinstance(model, dict) else None
    if ranked is None:
        kind = str(model.get("type"))[:20] if isinstance(model, dict) else "none"
        raise ModelError(f"{path}: its model is {kind}; only BPE and Unigram vocabularies have pieces to take")
    added = content.get("added_tokens")
    control = {str(t.get("content")) for t in (added if isinstance(added, list) else []) if isinstance(t, dict)}
    decoder = decoders.ByteLevel() if _is_byte_level(content) else None
    for piece in ranked:
        if piece in control or (len(piece) == 6 and piece.startswith("<0x")):
            continue
        text = decoder.decode([piece]).replace(" ", WORD_BOUNDARY) if decoder else piece
        if text and "\ufffd" not in text:  # a part of a character
            yield text


def _by_rank(model: dict[str, Any]) -> list[str] | None:
    """Returns the pieces of a vocabulary by rank; None if it is of an unknown kind."""
    vocabulary = model.get("vocab")
    try:
        if isinstance(vocabulary, dict) and model.get("type", "BPE") == "BPE":
            return sorted(vocabulary, key=lambda piece: int(vocabulary[piece]))
        if isinstance(vocabulary, list):
            return [str(piece) for piece, _ in sorted(vocabulary, key=lambda entry: -float(entry[1]))]
    except (TypeError, ValueError, LookupError):
        return None
    return None


def _is_byte_level(content: dict[str, Any]) -> bool:
    """Returns whether pieces are written as the characters that stand for their bytes."""
    for part in (content.get("pre_tokenizer"), content.get("decoder")):
        steps = [part, *(part.get("pretokenizers") or part.get("decoders") or [])] if isinstance(part, dict) else []
        if any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps):
            return True
    return False
