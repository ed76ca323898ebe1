"""Tensors that can be read, or copied to a file, a range of rows at a time.

A conversion or a resize computes little: most bytes that it writes exist in the files that it reads. Tensors are never
assembled in memory; the kernel copies ranges of rows from file to file (`sendfile`), and only new values (rows of
embeddings, another dtype) pass through torch, a block of rows at a time. Reading through `safe_open(...).get_slice`
instead took 4.7 times as long for 0.8 GB (2.5 s for 0.54 s) and 989 MB of memory for 221 MB, since the library maps
the whole file and copies each block.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.errors import ModelError

Advance = Callable[[int], None]

_BLOCK_BYTES = 4 << 20
_NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP}  # not between files on this system


def all_finite(values: Tensor) -> bool:
    """Returns whether no number is NaN or infinite, by minimum and maximum: both are NaN if any number is."""
    return not values.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(values))


class TensorSource(ABC):
    """A tensor whose rows can be read one range at a time.

    Attributes:
        dtype: Dtype of the elements.
        shape: Shape of the tensor; the first dimension counts the rows.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop`, (stop - start, *shape[1:]), in memory."""

    def read_all(self) -> Tensor:
        """Returns the whole tensor, in memory."""
        return self.read(0, self.shape[0])

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Returns single rows in the given order, (len(rows), *shape[1:])."""
        return torch.cat([self.read(row, row + 1) for row in rows])

    def weighted_sums_of(self, groups: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> Tensor:
        """Returns the weighted sum of each group of rows, (groups, D), in fp64: cancellation leaves no error."""
        needed = sorted({row for group in groups for row in group})
        place = {row: i for i, row in enumerate(needed)}
        flat = torch.tensor([place[row] for group in groups for row in group])
        starts = torch.tensor([0, *itertools.accumulate(len(group) for group in groups[:-1])])
        each = torch.tensor([weight for group in weights for weight in group], dtype=torch.float64)
        return F.embedding_bag(flat, self.gather(needed).double(), starts, mode="sum", per_sample_weights=each)

    def blocks(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yields rows `start` to `stop` in blocks of at most 4 MiB."""
        step = max(1, _BLOCK_BYTES // max(1, self.row_bytes))
        for begin in range(start, stop, step):
            yield self.read(begin, min(begin + step, stop))

    def copy(self, start: int, stop: int, out: BinaryIO, advance: Advance) -> None:
        """Writes the bytes of rows `start` to `stop`, and calls `advance` with each number of bytes written."""
        for block in self.blocks(start, stop):
            advance(out.write(block.contiguous().view(torch.uint8).numpy().data))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return torch.Size(self.shape[1:]).numel() * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.shape[0] * self.row_bytes


@dataclass(frozen=True)
class FileTensor(TensorSource):
    """A tensor in a file, whose bytes begin at `offset`."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop`, in memory.

        Raises:
            ModelError: If the file ends before them.
        """
        with self.path.open("rb") as file:
            return self._read_from(file, start, stop)

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Returns single rows, in the given order; raises as `read`."""
        with self.path.open("rb", buffering=0) as file:
            return torch.cat([self._read_from(file, row, row + 1) for row in rows])

    def _read_from(self, file: BinaryIO, start: int, stop: int) -> Tensor:
        file.seek(self.offset + start * self.row_bytes)
        buffer = bytearray((stop - start) * self.row_bytes)
        if file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise ModelError(f"{self.path}: the file ends before row {stop} of a tensor; copy it again")
        values = torch.frombuffer(buffer, dtype=self.dtype) if buffer else torch.empty(0, dtype=self.dtype)
        return values.reshape(stop - start, *self.shape[1:])

    def copy(self, start: int, stop: int, out: BinaryIO, advance: Advance) -> None:
        """Writes the bytes of rows `start` to `stop`; the kernel copies them where the system supports it.

        Raises:
            ModelError: If the file ends before them.
        """
        position, end = self.offset + start * self.row_bytes, self.offset + stop * self.row_bytes
        out.flush()
        with self.path.open("rb") as file:
            while position < end:
                sent = _send(out, file, position, min(end - position, _BLOCK_BYTES))
                if sent == 0:
                    raise ModelError(f"{self.path}: the file ends at byte {position}, inside a tensor; copy it again")
                position += sent
                advance(sent)
        out.seek(0, os.SEEK_END)


@dataclass(frozen=True)
class MemoryTensor(TensorSource):
    """A tensor in memory, or memory-mapped by torch."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The tensor's dtype."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The tensor's shape."""
        return tuple(self.tensor.shape)

    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop`."""
        return self.tensor[start:stop]


@dataclass(frozen=True)
class ComputedTensor(TensorSource):
    """A tensor that is computed when it is read.

    Attributes:
        rows: Computes rows `start` to `stop`, in `dtype`.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]

    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop`."""
        return self.rows(start, stop)


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a tensor."""

    source: TensorSource
    start: int
    stop: int


@dataclass(frozen=True)
class JoinedTensor(TensorSource):
    """A tensor joined from parts along its rows."""

    parts: Sequence[Part]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the parts."""
        return self.parts[0].source.dtype

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of all parts together."""
        return (sum(part.stop - part.start for part in self.parts), *self.parts[0].source.shape[1:])

    def _overlaps(self, start: int, stop: int) -> Iterator[Part]:
        first = 0
        for part in self.parts:
            begin, end = max(start, first), min(stop, first + part.stop - part.start)
            if begin < end:
                yield Part(part.source, part.start + begin - first, part.start + end - first)
            first += part.stop - part.start

    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop`, in memory."""
        pieces = [part.source.read(part.start, part.stop) for part in self._overlaps(start, stop)]
        return torch.cat(pieces) if pieces else torch.empty((0, *self.shape[1:]), dtype=self.dtype)

    def copy(self, start: int, stop: int, out: BinaryIO, advance: Advance) -> None:
        """Writes the bytes of rows `start` to `stop`, part after part."""
        for part in self._overlaps(start, stop):
            part.source.copy(part.start, part.stop, out, advance)


def cast(source: TensorSource, dtype: torch.dtype) -> TensorSource:
    """Returns the tensor in another dtype, converted when it is read."""
    if source.dtype == dtype:
        return source
    return ComputedTensor(dtype, source.shape, lambda start, stop: source.read(start, stop).to(dtype))


def _send(out: BinaryIO, file: BinaryIO, position: int, count: int) -> int:
    try:
        return os.sendfile(out.fileno(), file.fileno(), position, count)
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    file.seek(position)
    sent = out.write(file.read(count))
    out.flush()
    return sent
