"""Incremental decoding of generated ids.

The text emitted so far is always a prefix of the text of all ids: a character that is encoded in several byte tokens is
held back until its last byte, and spaces are those of the complete text. All ids are decoded again for each new one,
because SentencePiece has no incremental decoder; that costs little beside a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import Piece

_LONGEST_PATTERN = 8  # characters that a cleaning replaces: [[训练时间]]
_MAX_UNFINISHED_BYTES = 3  # of a character of four bytes


class TextStream:
    """Decodes ids one by one into text.

    Attributes:
        ids: All ids added so far.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        """Starts with no ids."""
        self.ids: list[int] = []
        self._tokenizer, self._num_emitted = tokenizer, 0  # characters

    def add(self, token_id: int) -> str:
        """Adds a token id and returns newly decodable text."""
        self.ids.append(token_id)
        return self._emit(len(self.ids) - self._num_unfinished())

    def close(self) -> str:
        """Ends the stream and returns the text that was held back."""
        return self._emit(len(self.ids))

    def _emit(self, num_ids: int) -> str:
        text = self._tokenizer.decode(self.ids[:num_ids])[self._num_emitted :]
        self._num_emitted += len(text)
        return text

    def _num_unfinished(self) -> int:
        """Number of trailing ids that are the first bytes of an incomplete character."""
        for num_bytes, token_id in enumerate(reversed(self.ids[-_MAX_UNFINISHED_BYTES:]), start=1):
            piece = self._tokenizer.proto.pieces[token_id]
            if piece.type != Piece.BYTE:
                return 0
            byte = int(piece.piece[3:5], 16)  # "<0xE3>"
            if not 0x80 <= byte < 0xC0:  # not a continuation byte
                return num_bytes if num_bytes < _character_len(byte) else 0
        return 0


class CleanedStream:
    """Emits the cleaned text of a stream; see `glmja.families.family.Family.clean_reply`.

    A character may depend on its neighbours, so the last ones are held back until the text goes on.
    """

    def __init__(self, clean: Callable[[str], str]) -> None:
        """Starts with no text."""
        self._clean, self._text, self._num_emitted = clean, "", 0
        self._held = 0 if clean is str else _LONGEST_PATTERN

    def add(self, text: str) -> str:
        """Adds decoded text and returns new cleaned text."""
        self._text += text
        return self._emit(self._held)

    def close(self, text: str = "") -> str:
        """Adds the last decoded text and returns the cleaned text that was held back."""
        self._text += text
        return self._emit(0)

    def _emit(self, num_held: int) -> str:
        cleaned = self._clean(self._text)
        text = cleaned[self._num_emitted : max(0, len(cleaned) - num_held)]
        self._num_emitted += len(text)
        return text


class ReplyStream:
    """Decodes the ids of an assistant's message: its metadata line, if not empty, then its content.

    The metadata is held back until its line ends. Without a line feed everything is content, which is known only at
    the end.

    Attributes:
        ids: All ids added so far.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        """Starts with no ids."""
        self.ids: list[int] = []
        self._tokenizer, self._line_feed = tokenizer, tokenizer.encode("\n")[-1]
        self._content: TextStream | None = None

    def add(self, token_id: int) -> str:
        """Adds a token id and returns newly decodable text."""
        self.ids.append(token_id)
        if self._content:
            return self._content.add(token_id)
        if token_id != self._line_feed:
            return ""
        self._content = TextStream(self._tokenizer)
        metadata = self._tokenizer.decode(self.ids[:-1])
        return f"{metadata}\n" if metadata else ""

    def close(self) -> str:
        """Ends the stream and returns the text that was held back."""
        return self._content.close() if self._content else self._tokenizer.decode(self.ids)


def _character_len(first_byte: int) -> int:
    """Bytes of a UTF-8 character, from its first byte."""
    return 1 + (first_byte >= 0xC0) + (first_byte >= 0xE0) + (first_byte >= 0xF0)
