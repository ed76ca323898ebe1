"""Text to ids, fast.

BPE takes longer per token the longer its text is, so documents are encoded in parts. That changes no id: the cuts are
where no piece of the vocabulary could join the two characters, so no merge would have crossed them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from glmja.files.documents import documents_of
from glmja.files.records import Chunk
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import WORD_BOUNDARY, isolated_processor

_PART_LEN = 256  # characters of a part, or a few more; from 100 to 800 the speed is the same
_BPE = 2  # `TrainerSpec.ModelType.BPE`


class Encoded(NamedTuple):
    """Documents as ids."""

    ids: NDArray[np.uint32]  # of all documents
    lengths: NDArray[np.int64]  # of each
    digests: list[bytes]  # equal for equal documents
    num_blank: int  # documents without text, which have no ids


class DocumentEncoder:
    """Chunks to ids: of each document `tokenizer.encode(text)` and the EOS."""

    def __init__(self, tokenizer: GLMTokenizer, text_key: str) -> None:
        """Prepares the vocabulary.

        Args:
            tokenizer: The tokenizer.
            text_key: Where a record of JSON has its text.
        """
        self.text_key, self.eos_id = text_key, tokenizer.eos_id
        self.cutter = _Cutter(tokenizer)
        self.processor = self.cutter.processor

    def __call__(self, chunk: Chunk) -> Encoded:
        """The documents of a chunk; raises as `glmja.files.documents.documents_of`."""
        parts: list[str] = []
        first_parts: list[int] = []
        for text in documents_of(chunk, self.text_key):
            first_parts.append(len(parts))
            parts.extend(self.cutter.parts(text))
        num_blank = len(chunk.raw) - len(first_parts)
        if not parts:
            return Encoded(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64), [], num_blank)
        encoded = self.processor.encode(parts, out_type="numpy", num_threads=1)
        lengths = np.add.reduceat([len(ids) for ids in encoded], first_parts) + 1
        ends = np.cumsum(lengths)
        ids = np.insert(np.concatenate(encoded), ends - np.arange(1, len(ends) + 1), self.eos_id).astype(np.uint32)
        assert (ids[ends - 1] == self.eos_id).all()
        digests = [hashlib.blake2b(part.tobytes(), digest_size=16).digest() for part in np.split(ids, ends[:-1])]
        return Encoded(ids, lengths, digests, num_blank)


class _Cutter:
    """Cuts a text such that the ids of its parts, one after the other, are those of the text.

    Attributes:
        processor: Encodes the parts.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        proto = tokenizer.proto
        normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
        # What the argument needs: merges are the only thing that looks at two characters at once. A normaliser could,
        # and so does the fusion of unknown characters in a vocabulary without bytes.
        self.cuts = (
            trainer.model_type == _BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and normalizer.escape_whitespaces
        )
        self.prefix = WORD_BOUNDARY if normalizer.add_dummy_prefix else ""
        pieces = [p.piece for p in proto.pieces] if self.cuts else []
        self.joined = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
        if self.cuts:
            self.processor = isolated_processor(proto)
        else:
            self.processor = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def parts(self, text: str) -> Iterator[str]:
        """Yields the parts of a text, with what the processor would do to it done."""
        if not self.cuts:
            yield text
            return
        text = self.prefix + text.replace(" ", WORD_BOUNDARY)
        start = 0
        while start < len(text):
            end = start + _PART_LEN
            while end < len(text) and text[end - 1 : end + 1] in self.joined:
                end += 1
            yield text[start:end]
            start = end
