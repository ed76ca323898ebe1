"""Compressed files, read as if they were unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from glmja.errors import DataError

_BUFFER = 1 << 17  # bytes; smaller ones make reading slower


class UnpackError(DataError):
    """Raised when compressed data is damaged; the message does not name the file."""


class _Compression(NamedTuple):
    name: str
    unpack: Callable[[BinaryIO], Any]
    errors: tuple[type[Exception], ...]  # raised for damaged files


def _unpack_zstd(file: BinaryIO) -> Any:
    import pyarrow  # noqa: PLC0415  # takes a tenth of a second, and few files need it

    return pyarrow.CompressedInputStream(file, "zstd")


_COMPRESSIONS = {  # by the last suffix of a file's name
    ".gz": _Compression("gzip", lambda file: gzip.GzipFile(fileobj=file), (EOFError, gzip.BadGzipFile, zlib.error)),
    ".zst": _Compression("zstd", _unpack_zstd, (OSError,)),
    ".bz2": _Compression("bzip2", bz2.BZ2File, (EOFError, OSError)),
    ".xz": _Compression("xz", lzma.LZMAFile, (EOFError, lzma.LZMAError)),
}
COMPRESSION_SUFFIXES = tuple(_COMPRESSIONS)


def without_compression(path: Path) -> Path:
    """Removes the suffix of a known compression: `a.jsonl.gz` becomes `a.jsonl`."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSIONS else path


@contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Opens a file for reading, unpacked if its suffix is that of a compression.

    Yields:
        The open file, and a function that returns how many bytes of the file on disk have been read. Reading raises
        `UnpackError` if the compressed data is damaged.
    """
    with path.open("rb") as raw:
        compression = _COMPRESSIONS.get(path.suffix.lower())
        if compression is None:
            yield raw, raw.tell
        else:
            yield io.BufferedReader(_Unpacked(raw, compression), _BUFFER), raw.tell


class _Unpacked(io.RawIOBase):
    """The content of a compressed file; damage raises `UnpackError`, whatever the compression."""

    def __init__(self, raw: BinaryIO, compression: _Compression) -> None:
        super().__init__()
        self._compression, self._stream = compression, compression.unpack(raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read1(len(buffer))  # `readinto` would lose what precedes the damage
        except self._compression.errors as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk, not the data
                raise
            raise UnpackError(f"damaged {self._compression.name} file ({error})") from error
        buffer[: len(content)] = content
        return len(content)
