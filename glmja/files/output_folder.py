"""Output folders that are either complete or absent."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def check_free(output: str | Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Checks, before any work, that the output may be written.

    Raises:
        FileExistsError: If `output` is a folder that is not empty and `overwrite` is false.
        ValueError: If `output` is a file, or holds one of the inputs.
    """
    output = Path(output)
    for path in map(Path, inputs):
        if output.resolve() in (path.resolve(), *path.resolve().parents) and path.exists():
            raise ValueError(f"`output` {output} holds the input {path} and would replace it; choose another folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` {output} is a file, not a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(f"`output` {output} exists and is not empty; set `overwrite` to replace it")


@contextmanager
def atomic_output_folder(output: str | Path, overwrite: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to write into that takes its name only when the block ends well.

    Args:
        output: The folder's final name. What is there is replaced at the end, and kept on failure.
        overwrite: Whether `output` may hold something.
        needed_bytes: What will be written; checked against the free space of the disk first.

    Raises:
        FileExistsError: As `check_free`; also if somebody else was faster.
        ValueError: As `check_free`.
        OSError: If the disk has or gets no room; the partial folder is removed.
    """
    output = Path(output)
    check_free(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if needed_bytes > free:
        raise OSError(errno.ENOSPC, f"{needed_bytes / 1e9:.2f} GB are needed but {free / 1e9:.2f} GB free", str(output))
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        check_free(output, overwrite)
        _take_name(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _take_name(partial: Path, output: Path) -> None:
    """Renames the folder; what has the name gives way only if that succeeds."""
    if not output.exists():
        partial.rename(output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
    output.rename(aside / output.name)
    try:
        partial.rename(output)
    except OSError:
        (aside / output.name).rename(output)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
