"""JSON that is not an object a line: an array, or objects over several lines, read without loading the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from typing import Any

from glmja.errors import DataError
from glmja.files.text_lines import MAX_LINE_BYTES

_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN_LEN = 16  # characters: an error this close to the end may be a token that is cut, as `tru` or `\u30`
_DECODER = json.JSONDecoder()


def is_begun(line: str) -> bool:
    """Returns whether a line begins a JSON value that later lines continue, or an array of values."""
    if line.startswith("["):
        return True
    try:
        json.loads(line)
    except JSONDecodeError as error:
        return error.pos >= len(line)
    except (ValueError, RecursionError):  # the reader of lines reports what is wrong
        return False
    return False


def json_values(blocks: Iterable[str], path: str) -> Iterator[tuple[Any, int]]:
    """Yields the elements of an array, or values that follow each other.

    Args:
        blocks: The text of the file.
        path: Path of the file, for error messages.

    Yields:
        A value, and the number of characters that it has.

    Raises:
        DataError: If it is no JSON; gives `path:line`.
    """
    text = _Text(iter(blocks), path)
    in_array = text.next_character() == "["
    if in_array:
        text.skip(1)
    while (character := text.next_character()) != "" and not (in_array and character == "]"):
        start = text.position
        yield text.value(), text.position - start
        if in_array and text.next_character() == ",":
            text.skip(1)
        elif in_array and text.next_character() != "]":
            raise text.error("Expecting ',' or ']'", text.position)
    if in_array:
        if character != "]":
            raise text.error("Expecting ']'", text.position)
        text.skip(1)
        if text.next_character():
            raise text.error("Extra data after the array", text.position)


class _Text:
    """A text that is read as far as a parser needs it.

    Attributes:
        position: Number of characters before the part that is kept and not parsed.
    """

    def __init__(self, blocks: Iterator[str], path: str) -> None:
        self._blocks, self._path = blocks, path
        self._kept, self._start, self._line, self._column = "", 0, 1, 0
        self._parsed = 0  # characters that were dropped
        self._is_complete = False

    @property
    def position(self) -> int:
        return self._parsed + self._start

    def next_character(self) -> str:
        """Skips white space, and returns the character after it, or "" at the end.

        Raises:
            DataError: If a value is too long.
        """
        while True:
            match = _SPACE.match(self._kept, self._start)
            assert match is not None
            self._start = match.end()
            if self._start < len(self._kept):
                return self._kept[self._start]
            if not self._read():
                return ""

    def skip(self, count: int) -> None:
        self._start += count

    def value(self) -> Any:
        """Returns the value at the position, which is the first character of one.

        Raises:
            DataError: If the text is not JSON, or not JSON that Python can read.
        """
        while True:
            start = self.position
            try:
                value, end = _DECODER.raw_decode(self._kept, self._start)
                length = end - self._start
                may_go_on = isinstance(value, int | float) and len(self._kept) - end < _TOKEN_LEN  # as 1 of 1.5
                if not (may_go_on and self._read()):
                    self._start += length
                    return value
            except JSONDecodeError as error:
                position = self._parsed + error.pos
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._kept) - _TOKEN_LEN
                if not (is_cut and self._read()):
                    raise self.error(error.msg, position) from error
            except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
                line, _ = self._place(start)
                raise DataError(f"{self._path}:{line}: not JSON that Python can read ({error})") from error

    def error(self, message: str, position: int) -> DataError:
        """Returns the error for a position of the text."""
        line, column = self._place(position)
        return DataError(f"{self._path}:{line}: not JSON ({message} at column {column})")

    def _place(self, position: int) -> tuple[int, int]:
        before = self._kept[: position - self._parsed]
        line, newline = self._line + before.count("\n"), before.rfind("\n")
        return line, len(before) - newline if newline >= 0 else self._column + len(before) + 1

    def _read(self) -> bool:
        """Drops what is parsed, and reads at least as much as is kept, so that long values take linear time."""
        self._line, column = self._place(self._parsed + self._start)
        self._column = column - 1
        self._parsed, self._kept, self._start = self.position, self._kept[self._start :], 0
        if len(self._kept) > MAX_LINE_BYTES:
            raise DataError(
                f"{self._path}:{self._line}: a value of more than {MAX_LINE_BYTES >> 20} Mi characters; "
                "write one record per line"
            )
        parts, size = [self._kept], 0
        for block in self._blocks:
            parts.append(block)
            size += len(block)
            if size > len(self._kept):
                break
        self._kept = "".join(parts)
        return size > 0
