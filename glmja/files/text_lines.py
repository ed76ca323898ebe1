"""Text of files: lines as bytes, decoded strictly as UTF-8, or blocks of decoded text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from glmja.errors import DataError
from glmja.files.compression import UnpackError
from glmja.files.encodings import has_escapes, not_utf8

MAX_LINE_BYTES = 1 << 28  # a document must fit into memory several times; all of Les Misérables has 3 MB

_BLOCK = 1 << 20  # bytes
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PAR1\x15": "parquet",
    b"ARROW1\x00": "arrow",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh91AY": "bzip2",
    b"\xfd7zXZ": "xz",
}
_TAR = slice(257, 262)  # the place of "ustar" in a tar file


def lines_of(file: BinaryIO, path: str) -> Iterator[bytes]:
    """Yields the lines of an open file.

    Args:
        file: File to read, at its beginning.
        path: Path of the file, for error messages.

    Raises:
        ValueError: If the content is an archive or a table instead of text, if compressed data is damaged, or if a line
            is longer than `MAX_LINE_BYTES`; gives `path:line`.
    """
    number = 1
    try:
        line = file.readline(MAX_LINE_BYTES + 1)
        _check_text(line, path)
        while line:
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB; write one document per line"
                )
            yield line
            number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)
    except UnpackError as error:
        raise DataError(f"{path}:{number}: {error}") from error


def decode(line: bytes, path: str, number: int) -> str:
    """Decodes a line as UTF-8, without the byte order mark that the first line may begin with.

    Args:
        line: Line to decode.
        path: Path of the file.
        number: Number of the line, from 1.

    Raises:
        ValueError: If the line is not UTF-8; the message names an encoding that fits.
    """
    if b"\x1b" in line and has_escapes(line):  # the first condition saves a call for each line
        raise not_utf8(path, number, line)
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise not_utf8(path, number, line) from None


def blocks_of(file: BinaryIO, path: str) -> Iterator[str]:
    """Yields the text of an open file in blocks, whatever the length of its lines; errors as `lines_of` and `decode`.

    Args:
        file: File to read, at its beginning.
        path: Path of the file, for error messages.
    """
    decoder, number, is_first = codecs.getincrementaldecoder("utf-8-sig")(), 1, True
    try:
        while block := file.read(_BLOCK):
            if is_first:
                _check_text(block, path)
            try:
                text = decoder.decode(block)
                if b"\x1b" in block and has_escapes(block):
                    raise UnicodeDecodeError(
                        "utf-8", block, block.index(0x1B), block.index(0x1B) + 1, "escape sequence"
                    )
            except UnicodeDecodeError as error:
                start = error.object.rfind(b"\n", 0, error.start) + 1
                number += error.object.count(b"\n", 0, error.start)
                raise not_utf8(path, number, error.object[start:].split(b"\n", 1)[0]) from None
            yield text
            number, is_first = number + block.count(b"\n"), False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:  # a character that the end of the file cuts
        raise not_utf8(path, number, error.object) from None
    except UnpackError as error:
        raise DataError(f"{path}:{number}: {error}") from error


def _check_text(start: bytes, path: str) -> None:
    kind = "tar" if start[_TAR] == b"ustar" else None
    kind = kind or next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind:
        raise DataError(
            f"{path}: the first bytes are those of a {kind} file, not of text; unpack it, or correct its suffix"
        )
