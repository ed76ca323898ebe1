"""Encodes documents fast.

BPE takes longer per token for longer texts, so documents are encoded in parts. This changes no id: a text is only cut
between two characters that occur side by side in no piece of the vocabulary, so no merge would have crossed the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.stores.store import digest_of
from glmja.files.chunks import Chunk
from glmja.files.documents import documents_of
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import WORD_BOUNDARY, isolated_processor

_PART_LEN = 256  # minimum number of characters of a part; from 100 to 800 the speed is the same
_BPE = 2  # `TrainerSpec.ModelType.BPE`


class Encoded(NamedTuple):
    """Documents as token ids."""

    ids: NDArray[np.uint32]  # of all documents
    lengths: NDArray[np.int64]  # tokens of each document
    digests: list[bytes]  # of each document; equal for equal documents
    num_blank: int  # documents that were left out because they are empty or white space


class DocumentEncoder:
    """Encodes chunks of documents: each becomes the ids of `tokenizer.encode(text)` and an EOS."""

    def __init__(self, tokenizer: GLMTokenizer, text_key: str) -> None:
        """Prepares the vocabulary for cutting texts.

        Args:
            tokenizer: Tokenizer.
            text_key: Key or column of the text.
        """
        self.text_key, self.eos_id = text_key, tokenizer.eos_id
        self.cutter = _Cutter(tokenizer)

    def __call__(self, chunk: Chunk) -> Encoded:
        """Encodes the documents of a chunk; errors as `glmja.files.documents.documents_of`."""
        parts: list[str] = []
        first_parts: list[int] = []
        for text in documents_of(chunk, self.text_key):
            first_parts.append(len(parts))
            parts.extend(self.cutter.parts(text))
        num_blank = len(chunk.raw) - len(first_parts)
        if not parts:
            return Encoded(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64), [], num_blank)
        encoded = self.cutter.encode(parts)
        lengths = np.add.reduceat([len(ids) for ids in encoded], first_parts) + 1
        ends = np.cumsum(lengths)
        ids = np.insert(np.concatenate(encoded), ends - np.arange(1, len(ends) + 1), self.eos_id).astype(np.uint32)
        assert (ids[ends - 1] == self.eos_id).all()
        digests = [digest_of(part) for part in np.split(ids, ends[:-1])]
        return Encoded(ids, lengths, digests, num_blank)


class _Cutter:
    """Cuts a text so that the ids of its parts, one after the other, are those of the text."""

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        proto = tokenizer.proto
        normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
        # Cuts are safe only if nothing but merges looks at two characters at once. A normalizer could, and so does the
        # fusion of unknown characters in a vocabulary without bytes.
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
        self.tokenizer, self.processor = tokenizer, isolated_processor(proto) if self.cuts else None

    def encode(self, parts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Returns the ids of each part."""
        if self.processor is not None:
            return self.processor.encode(parts, out_type="numpy", num_threads=1)
        return [np.array(ids, dtype=np.int32) for ids in self.tokenizer.encode_batch(parts)]

    def parts(self, text: str) -> Iterator[str]:
        """Yields the parts of a text, after the changes that the tokenizer makes to it."""
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
