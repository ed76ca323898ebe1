"""The tokenizer of ChatGLM-6B of March 2023: `ice_text.model`, a Unigram vocabulary with pieces for white space.

Line feeds, tabs and runs of spaces are encoded as pieces of their own (`<n>`, `<|tab|>`, `<|blank_2|>` …). The
vocabulary normalizes text by NFKC before it looks for pieces, so that some texts are decoded otherwise than they were
written: ，！？ and ＡＢＣ as ASCII, ｶ as カ, ㌔ as キロ.

Source: `tokenization_chatglm.py` of https://huggingface.co/THUDM/chatglm-6b, revision 8b7d3359. The original reads the
names of some control tokens in text as these tokens; here, as in all tokenizers of glmja, text never contains one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.files.json_files import write_json
from glmja.tokenization.tokenizer import Algorithm, GLMTokenizer, num_characters
from glmja.tokenization.vocabulary import Piece

_ORIGINAL_SETTINGS: dict[str, object] = {
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    "bos_token": "<sop>", "eos_token": "<eop>", "end_token": "</s>", "gmask_token": "[gMASK]", "mask_token": "[MASK]",
    "pad_token": "<pad>", "unk_token": "<unk>", "remove_space": False, "do_lower_case": False, "num_image_tokens": 0,
}  # fmt: skip

_LINE_FEED, _TAB, _SPACES = "<n>", "<|tab|>", "<|blank_{}|>"
_MAX_SPACES = 80  # of a piece
_LONG_SPACES = re.compile(f" {{2,{_MAX_SPACES}}}")
_WHITE_SPACE = {_LINE_FEED: "\n", _TAB: "\t"} | {_SPACES.format(n): " " * n for n in range(2, _MAX_SPACES + 1)}


class ChatGLM1Tokenizer(GLMTokenizer):
    """Encodes text to token ids and decodes it, for ChatGLM-6B of March 2023."""

    file_name: ClassVar[str] = "ice_text.model"
    algorithm: ClassVar[Algorithm] = "UNIGRAM"
    has_contexts: ClassVar[bool] = True

    def __init__(self, proto: spm.ModelProto) -> None:
        """Wraps the content of `ice_text.model`.

        Raises:
            ModelError: If it is another vocabulary, or the first version of this one.
        """
        super().__init__(proto)
        pieces = {piece.piece for piece in proto.pieces}
        if missing := [name for name in ("[gMASK]", "<sop>", *_WHITE_SPACE) if name not in pieces]:
            raise ModelError(
                f"it has no piece {missing[0]!r}; if it is the first version of ChatGLM-6B's tokenizer, get the "
                "current one (2,706,249 bytes)"
            )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; these never include control tokens. Raises as `GLMTokenizer.encode`."""
        return super().encode(_with_pieces(text))

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[list[int]]:
        """Returns the ids of each text; see `encode`."""
        return super().encode_batch([_with_pieces(text) for text in texts], num_threads)

    @cached_property
    def _decoder(self) -> SentencePieceProcessor:
        """Decodes pieces of white space as what they stand for; text that spells the name of one stays as it is."""
        readable = spm.ModelProto()
        readable.CopyFrom(self.proto)
        for piece in readable.pieces:
            piece.piece = _WHITE_SPACE.get(piece.piece, piece.piece)
        return SentencePieceProcessor(model_proto=readable.SerializeToString())

    @property
    def eos_id(self) -> int:
        """Id of `<eop>`, which ends an answer; `</s>`, SentencePiece's end of text, is not used."""
        return self.control_id("<eop>")

    def prompt_ids(self, text_ids: Sequence[int]) -> list[int]:
        """Returns the ids of a text as a prompt: with `[gMASK] <sop>` at its end, after which the answer begins."""
        return [*text_ids, *self.prefix_ids]

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns both positions of a document's ids, (2, T), as `glmja.modeling.prefix_positions` derives them.

        Args:
            ids: A context that ends with `[gMASK]`, then `<sop>` and an answer.
        """
        gmask, sop = self.prefix_ids
        start = int(np.argmax(ids == sop))
        assert ids[start - 1] == gmask, "a document of ChatGLM-6B has [gMASK] <sop> before its answer"
        index = np.arange(len(ids))
        return np.stack([np.minimum(index, start - 1), np.maximum(index - start + 1, 0)])

    @property
    def new_ids(self) -> range:
        """Ids of the new pieces, after those of single bytes; empty for a base's tokenizer."""
        types = [piece.type for piece in self.proto.pieces]
        return range(len(types) - next(i for i, kind in enumerate(reversed(types)) if kind == Piece.BYTE), len(types))

    def save(self, folder: str | Path) -> None:
        """Writes `ice_text.model`, and the settings with which the original code reads it, into an existing folder."""
        super().save(folder)
        write_json(Path(folder) / "tokenizer_config.json", _ORIGINAL_SETTINGS)

    @cached_property
    def num_characters(self) -> list[int]:
        """Number of characters of each id, so that a sum over ids counts the characters of a normalized text."""
        return [len(_WHITE_SPACE.get(p.piece, "")) or num_characters(p) for p in self.proto.pieces]


def _with_pieces(text: str) -> str:
    """Returns a text in which the names of pieces stand for line feeds, tabs and runs of spaces, longest first."""
    text = text.replace("\n", _LINE_FEED).replace("\t", _TAB)
    return _LONG_SPACES.sub(lambda run: _SPACES.format(len(run[0])), text)
