"""Text of ids that are said one by one, shown at once and never taken back.

What a stream has given out is a beginning of the text of all ids: a character that is spelled in bytes waits for its
last byte, and spaces are those of the whole. All ids are decoded again for each new one, because SentencePiece has no
other way; beside the model's own work for a token that is little.
"""

from __future__ import annotations

from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import Piece

_MOST_UNFINISHED_BYTES = 3  # of a character of four


class TextStream:
    """Text of the ids so far.

    Attributes:
        ids: All that was heard.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        """Has heard nothing yet."""
        self.ids: list[int] = []
        self._tokenizer, self._num_characters = tokenizer, 0  # given out

    def add(self, token_id: int) -> str:
        """Hears an id; the text that is certain now and was not before."""
        self.ids.append(token_id)
        return self._give(len(self.ids) - self._num_unfinished())

    def close(self) -> str:
        """The text of what was held back, as the end shows that no more comes."""
        return self._give(len(self.ids))

    def _give(self, num_ids: int) -> str:
        text = self._tokenizer.decode(self.ids[:num_ids])[self._num_characters :]
        self._num_characters += len(text)
        return text

    def _num_unfinished(self) -> int:
        """How many of the last ids are the first bytes of a character, and not all of them."""
        for num_bytes, token_id in enumerate(reversed(self.ids[-_MOST_UNFINISHED_BYTES:]), start=1):
            piece = self._tokenizer.proto.pieces[token_id]
            if piece.type != Piece.BYTE:
                return 0
            byte = int(piece.piece[3:5], 16)  # "<0xE3>"
            if not 0x80 <= byte < 0xC0:  # the others continue a character
                return num_bytes if num_bytes < _character_len(byte) else 0
        return 0


class ReplyStream:
    """Text of an assistant's message: its metadata line if that is not empty, and its content.

    The metadata is held back until its line ends; without a line feed all is content, which only the end tells.

    Attributes:
        ids: All that was heard.
    """

    def __init__(self, tokenizer: GLMTokenizer) -> None:
        """Has heard nothing yet."""
        self.ids: list[int] = []
        self._tokenizer, self._line_feed = tokenizer, tokenizer.encode("\n")[-1]
        self._content: TextStream | None = None

    def add(self, token_id: int) -> str:
        """Hears an id; the text that is certain now and was not before."""
        self.ids.append(token_id)
        if self._content:
            return self._content.add(token_id)
        if token_id != self._line_feed:
            return ""
        self._content = TextStream(self._tokenizer)
        metadata = self._tokenizer.decode(self.ids[:-1])
        return f"{metadata}\n" if metadata else ""

    def close(self) -> str:
        """The text of what was held back."""
        return self._content.close() if self._content else self._tokenizer.decode(self.ids)


def _character_len(first_byte: int) -> int:
    """Bytes of a UTF-8 character."""
    return 1 + (first_byte >= 0xC0) + (first_byte >= 0xE0) + (first_byte >= 0xF0)
