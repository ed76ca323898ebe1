"""Errors for text that is not UTF-8, with the encoding that it may have.

Other encodings are refused instead of guessed, because a wrong guess would silently change the data. The error names an
encoding in which the whole file can be decoded, so that the command in it works.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

from glmja.errors import DataError
from glmja.files.compression import open_unpacked

_BLOCK = 1 << 20  # bytes
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_ESCAPES = re.compile(rb"\x1b(\$[@B(]|\(J)")  # switch to and from kanji in ISO-2022-JP
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")  # as Python writes bytes that it cannot decode
_KANA = re.compile("[\u3041-\u30fa]")


class _Encoding(NamedTuple):
    name: str  # as iconv spells it
    codec: str  # as Python spells it
    signs: re.Pattern[str]  # characters that a text in this encoding contains


# The first that fits is named. EUC-JP precedes Shift_JIS, which can decode most of it too; CP932 is the Shift_JIS of
# Windows, with ①, ㈱ and 髙 besides.
_ENCODINGS = (
    _Encoding("EUC-JP", "euc_jp", _KANA),
    _Encoding("SHIFT_JIS", "shift_jis", _KANA),
    _Encoding("CP932", "cp932", _KANA),
    _Encoding("GB18030", "gb18030", re.compile("[的一是不了。，]")),
    _Encoding("BIG5", "big5", re.compile("[的一是不了。，]")),
)
_SEVEN_BIT = (
    _Encoding("ISO-2022-JP", "iso2022_jp", _KANA),
    _Encoding("ISO-2022-JP-3", "iso2022_jp_3", _KANA),
)


def has_escapes(text: bytes) -> bool:
    """Returns whether text is ISO-2022-JP, which is valid UTF-8 because it has 7 bits."""
    return text.isascii() and _ESCAPES.search(text) is not None


def check_utf8(name: str, text: str, first_line: int = 1) -> None:
    """Checks text of a stream or an argument that Python has decoded, with the error handler `surrogateescape`.

    Args:
        name: What the text is, for the error.
        text: The text; a byte that is not UTF-8 is a lone surrogate in it.
        first_line: Number of its first line.

    Raises:
        DataError: If it was not UTF-8, or has escape sequences of ISO-2022-JP.
    """
    if not _ESCAPED_BYTES.search(text) and not has_escapes(text.encode("utf-8", "surrogatepass")):
        return
    content = text.encode("utf-8", "surrogateescape")
    for number, line in enumerate(content.split(b"\n"), first_line):
        if has_escapes(line) or _ESCAPED_BYTES.search(line.decode("utf-8", "surrogateescape")):
            raise not_utf8(name, number, line, content)


def not_utf8(path: str, number: int, line: bytes, content: bytes | None = None) -> DataError:
    """Returns the error for a line that is not UTF-8, or has escape sequences of ISO-2022-JP.

    Args:
        path: Path of the file.
        number: Number of the line, from 1.
        line: The line, or a part of it.
        content: The whole text, if it is not that of a file.
    """
    fits = partial(_fits, path if content is None else BytesIO(content))
    if has_escapes(line):
        found = f"ISO-2022-JP, not UTF-8 (escape sequence at column {line.index(0x1B) + 1})"
        encoding = next((candidate.name for candidate in _SEVEN_BIT if fits(candidate)), None)
    else:
        try:
            line.decode("utf-8-sig" if number == 1 else "utf-8")
            raise AssertionError("the line is UTF-8")
        except UnicodeDecodeError as error:
            found = f"not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1})"
        is_utf16 = number == 1 and line.startswith(_UTF_16)
        encoding = "UTF-16" if is_utf16 else next((candidate.name for candidate in _ENCODINGS if fits(candidate)), None)
    remedy = f", it may be {encoding}: iconv -f {encoding} -t UTF-8" if encoding else ""
    what = "the file" if content is None else "it"
    return DataError(f"{path}:{number}: {found}; convert {what} to UTF-8{remedy}")


def _fits(source: str | BytesIO, encoding: _Encoding) -> bool:
    """Returns whether a whole file or text can be decoded, to a text with the signs of the encoding."""
    decoder, has_signs = codecs.getincrementaldecoder(encoding.codec)(), False
    with suppress(UnicodeDecodeError, OSError), _opened(source) as file:
        while block := file.read(_BLOCK):
            has_signs = bool(encoding.signs.search(decoder.decode(block))) or has_signs
        decoder.decode(b"", final=True)
        return has_signs
    return False


@contextmanager
def _opened(source: str | BytesIO) -> Iterator[IO[bytes]]:
    if isinstance(source, BytesIO):
        source.seek(0)
        yield source
    else:
        with open_unpacked(Path(source)) as (file, _):
            yield file
