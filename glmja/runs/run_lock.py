"""Keeps two processes from writing to one run folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glmja.runs.run_folder import RunFolder

_BUSY = (errno.EACCES, errno.EAGAIN)
_logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Locks a run folder while the block runs; creates the folder, and removes it if nothing was written.

    The lock is a record lock (`fcntl`): the system drops it when the process ends, however it ends; worker processes do
    not inherit it; and NFS knows it.

    Args:
        folder: The run folder.

    Raises:
        ValueError: If another process has locked it.
    """
    folder, made = Path(folder), []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        made.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RunFolder.LOCK
    try:
        descriptor = _lock(path, folder)
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(path: Path, folder: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            if error.errno in _BUSY:
                os.close(descriptor)
                raise ValueError(
                    f"`run_dir` {folder} is in use by another run ({holder or 'just started'}); wait for it, stop it, "
                    "or choose another folder"
                ) from error
            _logger.warning("%s: this file system has no locks (%s): start only one run in this folder", folder, error)
            return descriptor
        # the run before may have removed the file after it was opened here
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        os.close(descriptor)
