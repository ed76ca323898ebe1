"""Output folders that are either complete or absent: the one way to write results atomically."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glmja.files.folder_kinds import PACK, list_names

# each folder that a command replaces has one: a model, a tokenizer, an evaluation or a language pack
_RESULTS = ("config.json", "tokenizer.model", "ice_text.model", "scores.json", PACK)


def check_free(
    output: str | Path, overwrite: bool, inputs: Iterable[str | Path] = (), keeps_others: bool = False
) -> None:
    """Checks that an output folder may be written, before any work is done.

    Args:
        output: Final path of the folder.
        overwrite: Whether a folder that is not empty may be replaced.
        inputs: Files and folders that are read and must not lie in `output`.
        keeps_others: Whether files that are not replaced stay, so that the folder may hold anything.

    Raises:
        FileExistsError: If `output` is a folder that is not empty and `overwrite` is false, or that holds no result of
            a command.
        ValueError: If `output` is a file, contains one of the inputs, or is or contains the working directory.
    """
    output = Path(output)
    if output.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(f"`output` {output} is or contains the working directory; choose a new folder")
    for path in map(Path, inputs):
        if output.resolve() in (path.resolve(), *path.resolve().parents) and path.exists():
            raise ValueError(f"`output` {output} contains the input {path} and would replace it; choose another folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` {output} is a file, not a folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(f"`output` {output} exists and is not empty; set `overwrite` to replace it")
    if output.is_dir() and not keeps_others:
        found = sorted(path.name for path in output.iterdir())
        if found and not any(name in _RESULTS for name in found):
            raise FileExistsError(
                f"`output` {output} holds no result of glmja that could be replaced ({list_names(found)}); choose "
                "another folder"
            )


@contextmanager
def atomic_output_folder(output: str | Path, overwrite: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Yields a temporary folder and renames it to `output` on success; removes it on failure.

    Args:
        output: Final path of the folder. An existing folder is replaced on success and kept on failure.
        overwrite: Whether a folder that is not empty may be replaced.
        needed_bytes: Number of bytes that will be written; compared with the free space of the disk first.

    Raises:
        FileExistsError: As `check_free`; also if another process created `output` in the meantime.
        ValueError: As `check_free`.
        OSError: If the disk has too little room.
    """
    output = Path(output)
    check_free(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if needed_bytes > free:
        raise OSError(errno.ENOSPC, f"{needed_bytes / 1e9:.2f} GB needed, but {free / 1e9:.2f} GB free", str(output))
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp grants access to the owner only
        check_free(output, overwrite)
        _take_name(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _take_name(partial: Path, output: Path) -> None:
    """Renames the folder; an existing folder of that name is removed only if this succeeds."""
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
