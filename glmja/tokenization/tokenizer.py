"""ChatGLM's tokenizer over SentencePiece, whichever layout its folder has.

The control tokens are SentencePiece pieces of type CONTROL at their own ids. SentencePiece
never produces such a piece from text, so no text can forge a role or end a turn; code asks
for a control token by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.tokenization.vocabulary import Piece, parse_proto

Role = Literal["system", "user", "assistant", "observation"]

FILE_NAME = "tokenizer.model"

# The published 78,554-piece vocabulary has these at the ids of ChatGLM3's control tokens: normal pieces that text could
# contain.
PLACEHOLDERS = tuple(f"vcxv{i}" for i in range(1, 10))


class TokenizerNotFoundError(FileNotFoundError, ModelError):
    """Raised when a folder that should hold a GLM tokenizer does not."""

    def __init__(self, folder: Path) -> None:
        """Says what the folder holds instead."""
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:3]) if folder.is_dir() else "no such folder"
        if (folder / FILE_NAME).is_dir():
            found = "a folder of that name"
        super().__init__(
            f"no {FILE_NAME} in {folder} (found: {found}); build one with python -m glmja.build_tokenizer, or name a "
            "ChatGLM folder"
        )


class GLMTokenizer:
    """Text to ids and back, for ChatGLM2, ChatGLM3 and what glmja makes of them.

    Attributes:
        proto: The SentencePiece model, its control pieces included.
    """

    def __init__(self, proto: spm.ModelProto) -> None:
        """Wraps a model that holds its control tokens as pieces of type CONTROL.

        Raises:
            ValueError: If SentencePiece refuses the model, or it has no token for the end of a text.
        """
        self.proto = proto
        try:
            self._processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
        except RuntimeError as error:
            raise ModelError(f"SentencePiece refuses the model: {error}") from error
        self._control_ids = {p.piece: i for i, p in enumerate(proto.pieces) if p.type == Piece.CONTROL}
        if self.eos_id not in self._control_ids.values():
            raise ModelError(f"the end of a text, {proto.trainer_spec.eos_piece[:20]!r}, is no control token of it")

    @classmethod
    def load(cls, folder: str | Path) -> GLMTokenizer:
        """Loads a tokenizer whose file defines its control tokens, as the files written by glmja do.

        ChatGLM's own files do not; `glmja.families.recognition.load_tokenizer` loads these, too.

        Args:
            folder: Folder of `tokenizer.model`.

        Raises:
            TokenizerNotFoundError: If the folder has no `tokenizer.model`.
            ValueError: If the file is not a SentencePiece model, or defines no control tokens.
        """
        proto = read_proto(folder)
        try:
            if not _defines_control_tokens(proto):
                raise ModelError("defines no control tokens; load it with glmja.families.recognition.load_tokenizer")
            return cls(proto)
        except ValueError as error:
            raise ModelError(f"{Path(folder) / FILE_NAME}: {error}") from error

    def __len__(self) -> int:
        """The number of ids, control tokens included."""
        return len(self.proto.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never one of a control token.

        Raises:
            ValueError: If the text holds a lone surrogate, which is no character.
        """
        try:
            return self._processor.encode(text)  # starts no thread, which costs ten times what a short text does
        except (TypeError, RuntimeError) as error:
            raise _surrogate([text], error) from None

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[list[int]]:
        """Ids of each text; see `encode`."""
        try:
            return self._processor.encode(list(texts), num_threads=num_threads)
        except TypeError as error:
            raise _surrogate(texts, error) from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; control tokens have none.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < len(self):
            raise ValueError(f"ids {min(ids)} … {max(ids)} are not all in the vocabulary of {len(self)}")
        return self._processor.decode(list(ids))

    def piece(self, token_id: int) -> str:
        """The piece of an id as SentencePiece writes it, a space as ▁."""
        return self.proto.pieces[token_id].piece

    @property
    def control_tokens(self) -> dict[str, int]:
        """Names and ids of the control tokens, `<s>` and `</s>` included."""
        return dict(self._control_ids)

    def control_id(self, name: str) -> int:
        """The id of a control token.

        Raises:
            ValueError: If the vocabulary has no such control token.
        """
        if name not in self._control_ids:
            raise ModelError(f"this tokenizer has no control token {name!r}; it has {list(self._control_ids)}")
        return self._control_ids[name]

    def role_id(self, role: Role) -> int:
        """The id of the token that opens a message of the role; raises as `control_id`."""
        return self.control_id(f"<|{role}|>")

    @property
    def eos_id(self) -> int:
        """The id that ends a document and the last turn of a conversation."""
        return self._processor.eos_id()

    @property
    def prefix_ids(self) -> list[int]:
        """`[gMASK] <sop>`: what every conversation starts with."""
        return [self.control_id("[gMASK]"), self.control_id("<sop>")]

    @property
    def stop_ids(self) -> list[int]:
        """The ids at which a reply ends: the end of the text, or of the turn."""
        turns = (self._control_ids.get(name) for name in ("<|user|>", "<|observation|>"))
        return [self.eos_id, *(i for i in turns if i is not None)]

    @property
    def new_ids(self) -> range:
        """Ids of the appended pieces, above the control tokens; empty for a base's own tokenizer."""
        return range(max(self.control_tokens.values()) + 1, len(self))

    @cached_property
    def num_characters(self) -> list[int]:
        """For each id the characters that it writes, so that sums over ids count the characters of a text.

        A character spelled in bytes counts at its first byte; a control token writes none.
        """
        return [_num_characters(piece) for piece in self.proto.pieces]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pieces, scores, types and normaliser: equal if and only if the tokenizers are."""
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.model` into an existing folder."""
        (Path(folder) / FILE_NAME).write_bytes(self.proto.SerializeToString(deterministic=True))


def _surrogate(texts: Sequence[str], error: Exception) -> Exception:
    """What SentencePiece means by its error if a text cannot be written as UTF-8."""
    bad = next((text for text in texts if any("\ud800" <= c <= "\udfff" for c in text)), None)
    if bad is None:
        return error
    return ValueError(f"the text holds a lone surrogate, which is no character: {ascii(bad)[:60]}")


def read_proto(folder: str | Path, file_name: str = FILE_NAME) -> spm.ModelProto:
    """Reads the SentencePiece model of a folder.

    Raises:
        TokenizerNotFoundError: If the folder has none.
        ModelError: If the file is not a SentencePiece model.
    """
    path = Path(folder) / file_name
    if not path.is_file():
        raise TokenizerNotFoundError(Path(folder))
    try:
        return parse_proto(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def with_control_tokens(proto: spm.ModelProto, control_tokens: Sequence[str]) -> spm.ModelProto:
    """Returns a copy of the model in which the control tokens are pieces of type CONTROL, at ChatGLM's ids.

    They follow the model's own pieces; the placeholders of the published merge are replaced by them. A model that
    defines control tokens is returned unchanged.
    """
    if _defines_control_tokens(proto):
        return proto
    complete = spm.ModelProto()
    complete.CopyFrom(proto)
    first = next((i for i, p in enumerate(proto.pieces) if p.piece == PLACEHOLDERS[0]), len(proto.pieces))
    if tuple(p.piece for p in list(proto.pieces)[first : first + len(PLACEHOLDERS)]) == PLACEHOLDERS:
        for piece, name in zip(list(complete.pieces)[first:], control_tokens, strict=False):
            piece.piece, piece.type = name, Piece.CONTROL
    else:
        for name in control_tokens:
            complete.pieces.add(piece=name, score=0.0, type=Piece.CONTROL)
    complete.trainer_spec.vocab_size = len(complete.pieces)
    return complete


def _defines_control_tokens(proto: spm.ModelProto) -> bool:
    return any(p.type == Piece.CONTROL and p.piece == "[gMASK]" for p in proto.pieces)


def _num_characters(piece: spm.ModelProto.SentencePiece) -> int:
    if piece.type == Piece.BYTE:
        return int(not 0x80 <= int(piece.piece[3:5], 16) < 0xC0)  # "<0xE3>"; 10xxxxxx continues a character
    return len(piece.piece) if piece.type == Piece.NORMAL else 0
