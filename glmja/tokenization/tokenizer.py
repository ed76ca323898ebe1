"""ChatGLM's tokenizer on top of SentencePiece.

Control tokens are SentencePiece pieces of type CONTROL. SentencePiece never produces such a piece from text, so no text
can forge a role or end a turn; code looks up control tokens by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.files.placeholders import describe_placeholder
from glmja.tokenization.vocabulary import Piece, parse_proto

Role = Literal["system", "user", "assistant", "observation"]
Algorithm = Literal["BPE", "UNIGRAM"]

ROLE_TOKENS = tuple(f"<|{role}|>" for role in get_args(Role))

FILE_NAME = "tokenizer.model"

# The published 78,554-piece vocabulary has these at the ids of ChatGLM3's control tokens: normal pieces that text could
# contain.
PLACEHOLDERS = tuple(f"vcxv{i}" for i in range(1, 10))


class TokenizerNotFoundError(FileNotFoundError, ModelError):
    """Raised when a folder that should hold a GLM tokenizer does not."""

    def __init__(self, folder: Path) -> None:
        """Formats the message, with some of the files that the folder contains."""
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:3]) if folder.is_dir() else "no such folder"
        remedy = "build one with python -m glmja.build_tokenizer, or give a ChatGLM folder"
        if (folder / FILE_NAME).is_dir():
            found = "a folder of this name"
        elif (folder / "tokenizer.json").is_file():
            found, remedy = "tokenizer.json", "copy it from the model that this one was made from"  # by transformers
        elif (folder / "config.json").is_file():
            remedy = "copy it from the model that this one was made from"
        super().__init__(f"no {FILE_NAME} in {folder} (found: {found}); {remedy}")


class GLMTokenizer:
    """Encodes text to token ids and decodes it, for ChatGLM2, ChatGLM3 and their extensions.

    Attributes:
        file_name: Name of the tokenizer's file in a model folder.
        algorithm: The algorithm of SentencePiece that its vocabulary is made for.
        has_contexts: Whether a document is a context, which is read in both directions, and an answer.
        proto: The SentencePiece model, control pieces included.
    """

    file_name: ClassVar[str] = FILE_NAME
    algorithm: ClassVar[Algorithm] = "BPE"
    has_contexts: ClassVar[bool] = False

    def __init__(self, proto: spm.ModelProto) -> None:
        """Wraps a SentencePiece model that defines its control tokens as pieces of type CONTROL.

        Raises:
            ModelError: If the model is of another algorithm, SentencePiece rejects it, or its end-of-text token is not
                a control token.
        """
        found = spm.TrainerSpec.ModelType.Name(proto.trainer_spec.model_type)
        if found != self.algorithm:
            what = " (ChatGLM-6B of March 2023 has such a one, in ice_text.model)" if found == "UNIGRAM" else ""
            raise ModelError(f"its vocabulary is made for the algorithm {found}, not {self.algorithm}{what}")
        self.proto = proto
        try:
            self._processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
        except RuntimeError as error:
            raise ModelError(f"SentencePiece rejects the model: {error}") from error
        self._control_ids = {p.piece: i for i, p in enumerate(proto.pieces) if p.type == Piece.CONTROL}
        if self.eos_id not in self._control_ids.values():
            raise ModelError(f"its end-of-text token {proto.trainer_spec.eos_piece[:20]!r} is not a control token")

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
        """Number of ids, control tokens included."""
        return len(self.proto.pieces)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; these never include control tokens.

        Raises:
            ValueError: If the text contains a lone surrogate, which is not a character.
        """
        try:
            return self._processor.encode(
                text
            )  # a batch would start threads, which take ten times as long as a short text
        except (TypeError, RuntimeError) as error:
            raise _surrogate([text], error) from None

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[list[int]]:
        """Returns the ids of each text; see `encode`."""
        try:
            return self._processor.encode(list(texts), num_threads=num_threads)
        except TypeError as error:
            raise _surrogate(texts, error) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; control tokens have no text.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < len(self):
            raise ValueError(f"ids {min(ids)} to {max(ids)} are not all in the vocabulary of {len(self)} ids")
        return self._decoder.decode(list(ids))

    @property
    def _decoder(self) -> SentencePieceProcessor:
        return self._processor

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id as SentencePiece writes it, with ▁ for a space."""
        return self.proto.pieces[token_id].piece

    @property
    def control_tokens(self) -> dict[str, int]:
        """Names and ids of the control tokens, including `<s>` and `</s>`."""
        return dict(self._control_ids)

    def control_id(self, name: str) -> int:
        """Returns the id of a control token.

        Raises:
            ModelError: If the vocabulary has no such control token.
        """
        if name not in self._control_ids:
            raise ModelError(f"this tokenizer has no control token {name!r}; it has {list(self._control_ids)}")
        return self._control_ids[name]

    def role_id(self, role: Role) -> int:
        """Returns the id of the token that begins a message of the role; raises as `control_id`."""
        return self.control_id(f"<|{role}|>")

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document and the last turn of a conversation."""
        return self._processor.eos_id()

    @property
    def prefix_ids(self) -> list[int]:
        """Ids of `[gMASK] <sop>`, which are part of every prompt and every evaluated text."""
        return [self.control_id("[gMASK]"), self.control_id("<sop>")]

    def prompt_ids(self, text_ids: Sequence[int]) -> list[int]:
        """Returns the ids of a text as a prompt: with `[gMASK] <sop>` where the model expects them."""
        return [*self.prefix_ids, *text_ids]

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the positions of a document's ids, (T,), or (2, T) for a model with two positions a token."""
        return np.arange(len(ids))

    @property
    def has_roles(self) -> bool:
        """True if the vocabulary has role tokens, as ChatGLM3's does; see `has_role_tokens`."""
        return has_role_tokens(self._control_ids)

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end a reply: the end-of-text token, and tokens that begin the next turn."""
        turns = ("<|user|>", "<|observation|>") if self.has_roles else ()
        return [self.eos_id, *(self.control_id(name) for name in turns)]

    @property
    def new_ids(self) -> range:
        """Ids of the new pieces, after the base's control tokens; empty for a base's tokenizer."""
        control, first = set(self._control_ids.values()), self.control_id("[gMASK]")
        while first in control:
            first += 1
        return range(first, len(self))

    @cached_property
    def num_characters(self) -> list[int]:
        """Number of characters of each id, so that a sum over ids counts the characters of a text.

        A character that is encoded as bytes counts at its first byte; control tokens have none.
        """
        return [num_characters(piece) for piece in self.proto.pieces]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pieces, scores, types and normalizer: equal if and only if the tokenizers are."""
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's file into an existing folder."""
        (Path(folder) / self.file_name).write_bytes(self.proto.SerializeToString(deterministic=True))


def _surrogate(texts: Sequence[str], error: Exception) -> Exception:
    """Returns a clear error if SentencePiece failed because a text cannot be encoded as UTF-8."""
    bad = next((text for text in texts if any("\ud800" <= c <= "\udfff" for c in text)), None)
    if bad is None:
        return error
    return ValueError(f"the text contains a lone surrogate, which is not a character: {ascii(bad)[:60]}")


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
        raise ModelError(f"{path}: {describe_placeholder(path) or error}") from error


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


def has_role_tokens(control_ids: Mapping[str, int]) -> bool:
    """Returns whether the role tokens follow `<eop>`; a user may have added tokens of these names elsewhere.

    Args:
        control_ids: Names and ids of the control tokens of a vocabulary.
    """
    first = control_ids.get("<eop>", -1) + 1
    return [control_ids.get(name) for name in ROLE_TOKENS] == [*range(first, first + len(ROLE_TOKENS))]


def _defines_control_tokens(proto: spm.ModelProto) -> bool:
    return any(p.type == Piece.CONTROL and p.piece == "[gMASK]" for p in proto.pieces)


def num_characters(piece: spm.ModelProto.SentencePiece) -> int:
    """Returns the number of characters that a piece stands for; see `GLMTokenizer.num_characters`."""
    if piece.type == Piece.BYTE:
        return int(not 0x80 <= int(piece.piece[3:5], 16) < 0xC0)  # "<0xE3>"; 10xxxxxx continues a character
    return len(piece.piece) if piece.type == Piece.NORMAL else 0
