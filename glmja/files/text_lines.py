"""Lines of text files: read as bytes, unpacked if need be, and decoded strictly as UTF-8.

Other encodings are refused instead of guessed, because a wrong guess would silently change the data.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from glmja.errors import DataError

MAX_LINE_BYTES = 1 << 28  # a document must fit into memory several times; all of Les Misérables has 3 MB

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PAR1\x15": "parquet",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh91AY": "bzip2",
    b"\xfd7zXZ": "xz",
}
_TAR = slice(257, 262)  # the place of "ustar" in a tar file

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class _Compression(NamedTuple):
    name: str
    unpack: Callable[[BinaryIO], gzip.GzipFile]
    errors: tuple[type[Exception], ...]  # raised for damaged files


_COMPRESSIONS = {  # by the last suffix of a file's name
    ".gz": _Compression(
        "gzip", lambda file: gzip.GzipFile(fileobj=file), (EOFError, gzip.BadGzipFile, zlib.error)
    ),
}  # fmt: skip


def without_compression(path: Path) -> Path:
    """Removes the suffix of a known compression: `a.jsonl.gz` becomes `a.jsonl`."""
    return path.with_suffix("") if path.suffix in _COMPRESSIONS else path


@contextmanager
def open_lines(path: Path) -> Iterator[tuple[Iterator[bytes], Callable[[], int]]]:
    """Opens a text file, compressed or not, for reading its lines.

    Yields:
        The lines, as `lines_of`, and a function that returns how many bytes of the file have been read.

    Raises:
        ValueError: While the lines are read, as `lines_of`, or if the compressed data is damaged; the message gives
            `path:line`.
    """
    with path.open("rb") as raw:
        compression = _COMPRESSIONS.get(path.suffix)
        yield _unpacked(raw, path, compression) if compression else lines_of(raw, path), raw.tell


def _unpacked(raw: BinaryIO, path: Path, compression: _Compression) -> Iterator[bytes]:
    number = 0
    try:
        unpacked = io.BufferedReader(compression.unpack(raw))
        for number, line in enumerate(lines_of(unpacked, path), start=1):  # noqa: B007
            yield line
    except compression.errors as error:
        raise DataError(f"{path}:{number + 1}: damaged {compression.name} file ({error})") from error


def lines_of(file: BinaryIO, path: str | Path) -> Iterator[bytes]:
    """Yields the lines of an open file.

    Args:
        file: File to read, at its beginning.
        path: Path of the file, for error messages.

    Raises:
        ValueError: If the content is an archive or a table instead of text, or if a line is longer than
            `MAX_LINE_BYTES`.
    """
    number, line = 1, file.readline(MAX_LINE_BYTES + 1)
    if kind := _kind(line):
        raise DataError(
            f"{path}: the first bytes are those of a {kind} file, not of text; unpack it, or correct its suffix"
        )
    while line:
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB; write one document per line"
            )
        yield line
        number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)


def decode(line: bytes, place: str) -> str:
    """Decodes a line as UTF-8, without the byte order mark that the first line may begin with.

    Args:
        line: Line to decode.
        place: Place of the line, `path:number`, for error messages.

    Raises:
        ValueError: If the line is not UTF-8; the message names an encoding that fits.
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
    """Finds an encoding in which the line contains kana; EUC-JP first, because Shift_JIS can decode most of it too."""
    for name in ("EUC-JP", "SHIFT_JIS"):
        with suppress(UnicodeDecodeError):
            if any("\u3041" <= character <= "\u30fa" for character in line.decode(name)):
                return name
    return None
