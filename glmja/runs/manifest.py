"""Checkpoints that are either complete or refused.

A checkpoint is a folder `step=N.ckpt/`. Its `manifest.json` is written last. It records the size and the sha256 of
every other file, and a hash of itself, so that an interrupted save, a flipped bit or a file of another step is detected
before anything is unpickled: neither torch nor DeepSpeed detects them. Verifying costs one read of the files, at about
1.6 GB/s per core.

The manifest detects accidents, not attackers: whoever can write the files can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from glmja.errors import MachineError, ModelError
from glmja.files.checksums import sha256_of_file
from glmja.files.folder_kinds import checkpoint_names, describe_no_checkpoint
from glmja.runs.identity import RunIdentity
from glmja.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

LightningState = dict[str, Any]  # what Lightning saves and loads

# keys of the run identity; existing checkpoints have these names
IDENTITY_KEY = "glmja_facts"  # in the dictionary that Lightning saves
_IDENTITY = "facts"  # in the manifest
FORMAT = 2  # increases when the format changes
NAME = RunFolder.MANIFEST
PARTIAL = RunFolder.PARTIAL

_NUM_SHOWN = 5  # names of checkpoints in a message
_SEAL = "sha256"  # key of the hash of the rest of the manifest


class FileRecord(TypedDict):
    """Size in bytes and hash of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Metadata of a checkpoint.

    Attributes:
        step: Number of optimizer steps done.
        identity: What a run must share with the saved one to resume from it.
        files: Size and hash of each file, by its path relative to the folder.
    """

    step: int
    identity: RunIdentity
    files: dict[str, FileRecord]

    @property
    def fingerprint(self) -> str:
        """A hash of the content of all files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


def partial_folder(final: str | Path) -> Path:
    """Returns the folder in which a checkpoint is written until it is complete."""
    final = Path(final)
    return final.parent / f"{PARTIAL}{final.name}"


def begin(final: str | Path) -> Path:
    """Creates the empty folder to write a checkpoint into, and removes what killed runs left beside it.

    Args:
        final: Path of the checkpoint. Nothing else may be saving into the same parent folder.

    Raises:
        FileExistsError: If there is a checkpoint at that path.
    """
    final = Path(final)
    if final.exists():
        raise FileExistsError(f"{final} exists; a checkpoint is never overwritten")
    for leftover in final.parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)
    partial = partial_folder(final)
    partial.mkdir(parents=True)
    return partial


def complete(partial: str | Path, final: str | Path, step: int, identity: RunIdentity) -> None:
    """Turns a folder of written files into a checkpoint: everything is on the disk before the folder is renamed.

    Args:
        partial: The folder, on the same file system as `final`.
        final: Path of the checkpoint.
        step: Number of optimizer steps done.
        identity: Identity of the run.

    Raises:
        FileExistsError: If there is a checkpoint at that path.
    """
    partial, final = Path(partial), Path(final)
    paths = sorted(path for path in partial.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        records = list(threads.map(_record_on_disk, paths))
    files = {str(path.relative_to(partial)): record for path, record in zip(paths, records, strict=True)}
    content = {"format": FORMAT, "step": step, _IDENTITY: identity.as_json(), "files": files}
    with (partial / NAME).open("w", encoding="utf-8") as file:
        json.dump({**content, _SEAL: _seal(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
        _fsync(folder)
    if final.exists():
        raise FileExistsError(f"{final} exists; a checkpoint is never overwritten")
    partial.rename(final)
    _fsync(final.parent)


def save_error(final: str | Path, error: Exception) -> MachineError:
    """Returns the error for a failed save; torch's writer raises RuntimeError, whatever the system reported."""
    reason = f" ({error})" if isinstance(error, OSError) else ""
    return MachineError(
        f"{final} could not be written{reason}; is the disk full? Earlier checkpoints are complete: make room and "
        "resume with `ckpt_path` last"
    )


def read(folder: str | Path, verify: bool = True) -> Manifest:
    """Reads the manifest of a checkpoint.

    Args:
        folder: The checkpoint.
        verify: Whether to compare the sizes and hashes of all files with the manifest.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ModelError: If the checkpoint is incomplete or damaged; names the file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such checkpoint: {folder}{_others(folder.parent)}")
    if wrong := describe_no_checkpoint(folder):
        raise ModelError(f"{folder} {wrong}")
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        saved_format = content["format"]
        manifest = _parse(content) if saved_format == FORMAT else None
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder / NAME} is missing: the save was interrupted; use another checkpoint") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ModelError(f"{folder / NAME} is damaged; use another checkpoint") from None
    if manifest is None:
        raise ModelError(
            f"{folder / NAME} has format {str(saved_format)[:20]}, not {FORMAT}: another version of glmja saved it; "
            "resume with that version"
        )
    if verify:
        _verify(folder, manifest)
    return manifest


def newest(parent: str | Path, verify: bool = True) -> Path:
    """Returns the complete checkpoint of the last step; each checkpoint that is skipped is logged.

    Args:
        parent: Folder of checkpoints named `*.ckpt`.
        verify: Whether to verify the files of the checkpoint, and skip it if they are damaged.

    Raises:
        FileNotFoundError: If there are no checkpoints.
        ModelError: If there are some, and all of them are incomplete or damaged.
    """
    steps, is_saved = {}, False
    for folder in sorted(Path(parent).glob(RunFolder.CHECKPOINTS)):
        if folder.is_symlink():
            continue  # Lightning's `save_last="link"`; its target is here under its own name
        if folder.name.startswith(PARTIAL):
            log.warning("skipped %s: its save or its removal was interrupted", folder)
            continue
        is_saved = is_saved or folder.is_dir()
        try:
            steps[folder] = read(folder, verify=False).step
        except (ValueError, OSError) as error:
            log.warning("skipped a checkpoint: %s", error)
    for folder in sorted(steps, key=lambda folder: steps[folder], reverse=True):
        try:
            read(folder, verify)
        except (ValueError, OSError) as error:
            log.warning("skipped a checkpoint: %s", error)
        else:
            return folder
    if is_saved:
        raise ModelError(f"no complete checkpoint in {parent}: each is incomplete, damaged or of another version")
    raise FileNotFoundError(f"no complete checkpoint in {parent}")


def find(path: str | Path, verify: bool = True) -> tuple[Path, Manifest]:
    """Returns a checkpoint and its manifest.

    Args:
        path: The checkpoint, or the folder of a run, of which the newest complete checkpoint is taken.
        verify: Whether to verify its files.

    Raises:
        FileNotFoundError: If there is none.
        ModelError: If it is incomplete or damaged, or all checkpoints of the run are.
    """
    run = RunFolder(path)
    if run.checkpoints.is_dir():
        folder = newest(run.checkpoints, verify)
        return folder, read(folder, verify=False)
    return run.path, read(run.path, verify)


def any_in(parent: str | Path) -> bool:
    """Returns whether a save into this folder has ever completed; the checkpoint may be damaged by now."""
    return any(not folder.name.startswith(PARTIAL) for folder in Path(parent).glob(RunFolder.CHECKPOINTS))


def remove(folder: str | Path) -> None:
    """Removes a checkpoint. It is renamed first, so that an interrupted removal does not leave a partial checkpoint."""
    folder = Path(folder)
    removed = folder.parent / f"{PARTIAL}removed-{folder.name}"
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed)


def _others(parent: Path) -> str:
    names = checkpoint_names(parent)
    return f"; there are {', '.join(names[-_NUM_SHOWN:])}" if names else ""


def _parse(content: dict[str, Any]) -> Manifest:
    """Returns the manifest in a JSON object; raises LookupError, TypeError or ValueError if there is none."""
    step, identity, files = content["step"], content[_IDENTITY], content["files"]
    if content[_SEAL] != _seal(content):
        raise ValueError("the content is not what was written")
    if type(step) is not int or step < 0 or not isinstance(identity, dict) or not isinstance(files, dict):
        raise TypeError("step, facts or files")
    records = {name: FileRecord(bytes=entry["bytes"], sha256=entry["sha256"]) for name, entry in files.items()}
    return Manifest(step, RunIdentity.from_json(identity), records)


def _seal(content: dict[str, Any]) -> str:
    sealed = {key: value for key, value in content.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def _verify(folder: Path, manifest: Manifest) -> None:
    for name, record in manifest.files.items():  # sizes first: comparing them costs nothing
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing; use another checkpoint")
        if path.stat().st_size != record["bytes"]:
            raise ModelError(
                f"{path} is damaged: {path.stat().st_size} bytes, {record['bytes']} were saved; use another checkpoint"
            )
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(sha256_of_file, (folder / name for name in manifest.files))
        for (name, record), sha256 in zip(manifest.files.items(), hashes, strict=True):
            if sha256 != record["sha256"]:
                raise ModelError(
                    f"{folder / name} is damaged: its content is not what was saved; use another checkpoint"
                )


def _record_on_disk(path: Path) -> FileRecord:
    _fsync(path)
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of_file(path))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
