"""Lines of text files as bytes, and as text: what is no text is refused, and never guessed into one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from glmja.errors import DataError

MAX_LINE_BYTES = 1 << 28  # a document has to fit into memory several times; the whole of Les Misérables has 3 MB

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PAR1\x15": "parquet",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh91AY": "bzip2",
    b"\xfd7zXZ": "xz",
}
_TAR = slice(257, 262)  # where a tar file says "ustar"

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def lines_of(file: BinaryIO, path: str | Path) -> Iterator[bytes]:
    """Yields the lines of a file that is open, or being unpacked.

    Raises:
        ValueError: If it is no text but an archive or a table, or has a line too long to be a document.
    """
    number, line = 1, file.readline(MAX_LINE_BYTES + 1)
    if kind := _kind(line):
        raise DataError(f"{path}: a {kind} file by its first bytes, not lines of text; unpack it, or name it as it is")
    while line:
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB; write one document a line"
            )
        yield line
        number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)


def decode(line: bytes, place: str) -> str:
    """The text of a line, without the mark that a file may begin with.

    Raises:
        ValueError: If it is not UTF-8; names the encoding that it could be.
    """
    is_first = place.endswith(":1")
    try:
        return line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if is_first and line.startswith(_UTF_16) else _japanese_encoding(line)
        remedy = f"convert the file to UTF-8{f', it may be {guess}: iconv -f {guess} -t UTF-8' if guess else ''}"
        raise DataError(
            f"{place}: not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}); {remedy}"
        ) from error


def _kind(start: bytes) -> str | None:
    if start[_TAR] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _japanese_encoding(line: bytes) -> str | None:
    """The one in which the line has kana; EUC-JP first, since most of it can be read as Shift_JIS, too."""
    for name in ("EUC-JP", "SHIFT_JIS"):
        with suppress(UnicodeDecodeError):
            if any("\u3041" <= character <= "\u30fa" for character in line.decode(name)):
                return name
    return None
