"""Checkpoints that are whole or refused.

A checkpoint is a folder `step=N.ckpt/`. Its `manifest.json` is written last and names every other file with its size
and sha256, and gives its own, so that an interrupted save, a flipped bit or a file of another step is noticed before
anything is unpickled: neither torch nor DeepSpeed notices. The price is one reading of the files, at about 1.6 GB/s for
each core.

Detects accidents, not attackers: who can write the files can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glmja.errors import MachineError, ModelError
from glmja.files.checksums import sha256_of_file

log = logging.getLogger(__name__)

FACTS = "glmja_facts"  # key of the facts in what Lightning saves
FORMAT = 2  # counts up when a manifest says something else, or otherwise
NAME = "manifest.json"
PARTIAL = ".tmp-"

_SEAL = "sha256"  # of all else that the manifest says
_OF_A_FILE = ("bytes", "sha256")

ADVICE = {
    "world_size": "resume on as many devices as it was saved on",
    "precision": "resume with `precision` as it was",
    "strategy": "resume with `strategy` as it was",
    "base": "resume with the model folder that the run began with",
    "tokenizer": "resume with the tokenizer that the run began with",
    "data": "resume with the sources, weights, row_len, batch size, accumulation and seed of RUN_DIR/config.yaml",
    "trainable": "resume with the model, the adapters and what trains as they were",
}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: Optimizer steps done.
        facts: What a run must share with the run that saved, to go on from here; anything that JSON can hold.
        files: For each file, relative to the folder, its `bytes` and `sha256`.
    """

    step: int
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]


def partial_folder(final: str | Path) -> Path:
    """Where the files of a checkpoint are written until they are complete."""
    final = Path(final)
    return final.parent / f"{PARTIAL}{final.name}"


def begin(final: str | Path) -> Path:
    """Makes the empty folder to write into, and removes what killed runs left beside it.

    Args:
        final: The checkpoint's name. Nothing else may be saving into the same parent folder.

    Raises:
        FileExistsError: If there is a checkpoint of that name.
    """
    final = Path(final)
    if final.exists():
        raise FileExistsError(f"{final} exists; a checkpoint is never overwritten")
    for leftover in final.parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)
    partial = partial_folder(final)
    partial.mkdir(parents=True)
    return partial


def complete(partial: str | Path, final: str | Path, step: int, facts: dict[str, Any]) -> None:
    """Makes a folder of written files a checkpoint: all of it is on the disk before it has its name.

    Args:
        partial: The folder, on the same file system as `final`.
        final: The checkpoint's name.
        step: Optimizer steps done.
        facts: See `Manifest`.

    Raises:
        FileExistsError: If there is a checkpoint of that name.
    """
    partial, final = Path(partial), Path(final)
    paths = sorted(path for path in partial.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        described = list(threads.map(_describe_on_disk, paths))
    files = {str(path.relative_to(partial)): entry for path, entry in zip(paths, described, strict=True)}
    content = json.loads(json.dumps({"format": FORMAT, **asdict(Manifest(step, facts, files))}))
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


def not_written(final: str | Path, error: Exception) -> MachineError:
    """The error for a save that failed; torch's writer says RuntimeError, whatever the system said."""
    reason = f" ({error})" if isinstance(error, OSError) else ""
    return MachineError(
        f"{final} could not be written{reason}; is the disk full? Earlier checkpoints are whole: make room and resume "
        "with `ckpt_path` last"
    )


def read(folder: str | Path, verify: bool = True) -> Manifest:
    """Reads the manifest of a checkpoint.

    Args:
        folder: The checkpoint.
        verify: Whether its files must have the sizes and hashes of the manifest.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If the checkpoint is incomplete or damaged; names the file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such checkpoint: {folder}")
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        saved_format = content["format"]
        manifest = _manifest_of(content) if saved_format == FORMAT else None
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder / NAME} is missing: the save did not end; resume from another checkpoint") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ModelError(f"{folder / NAME} is damaged; resume from another checkpoint") from None
    if manifest is None:
        raise ModelError(
            f"{folder / NAME} has format {saved_format}, not {FORMAT}: another glmja saved it; resume there"
        )
    if verify:
        _verify(folder, manifest)
    return manifest


def _manifest_of(content: dict[str, Any]) -> Manifest:
    """Raises `LookupError`, `TypeError` or `ValueError` if the content is not one."""
    step, facts, files = content["step"], content["facts"], content["files"]
    if content[_SEAL] != _seal(content):
        raise ValueError("it is not what was written")
    if type(step) is not int or step < 0 or not isinstance(facts, dict) or not isinstance(files, dict):
        raise TypeError("step, facts or files")
    return Manifest(step, facts, {name: {key: entry[key] for key in _OF_A_FILE} for name, entry in files.items()})


def _seal(content: dict[str, Any]) -> str:
    sealed = {key: value for key, value in content.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def newest(parent: str | Path) -> Path:
    """The checkpoint of the last step among those that are whole; each one passed over is logged.

    Args:
        parent: Folder of checkpoints named `*.ckpt`.

    Raises:
        FileNotFoundError: If none is whole.
    """
    steps = {}
    for folder in sorted(Path(parent).glob("*.ckpt")):
        if folder.is_symlink():
            continue  # Lightning's `save_last="link"`; what it points at is here under its own name
        if folder.name.startswith(PARTIAL):
            log.warning("passed over: %s: its save, or its removal, did not end", folder)
            continue
        try:
            steps[folder] = read(folder, verify=False).step
        except (ValueError, OSError) as error:
            log.warning("passed over: %s", error)
    for folder in sorted(steps, key=lambda folder: steps[folder], reverse=True):
        try:
            _verify(folder, read(folder, verify=False))
        except (ValueError, OSError) as error:
            log.warning("passed over: %s", error)
        else:
            return folder
    raise FileNotFoundError(f"no complete checkpoint in {parent}")


def any_in(parent: str | Path) -> bool:
    """Whether a save into this folder has ever ended; the checkpoint may be damaged by now."""
    return any(not folder.name.startswith(PARTIAL) for folder in Path(parent).glob("*.ckpt"))


def remove(folder: str | Path) -> None:
    """Removes a checkpoint: it loses its name first, so that what an interruption leaves is not taken for whole."""
    folder = Path(folder)
    removed = folder.parent / f"{PARTIAL}removed-{folder.name}"
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed)


def check_facts(saved: dict[str, Any], now: dict[str, Any], path: str | Path) -> None:
    """Checks that a run may go on from a checkpoint.

    Args:
        saved: Facts of the checkpoint.
        now: Facts of this run.
        path: The checkpoint, for the message.

    Raises:
        ValueError: If they differ; names the first difference with both values.
    """
    saved, now = json.loads(json.dumps([saved, now]))  # tuples are lists in the manifest
    for name in [*ADVICE, *sorted((saved.keys() | now.keys()) - ADVICE.keys())]:
        before, after = saved.get(name), now.get(name)
        if before == after:
            continue
        what = name
        if name == "trainable" and isinstance(before, list) and isinstance(after, list):
            what, before, after = _first_difference(before, after)
        if isinstance(before, dict) and isinstance(after, dict):
            differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            before, after = ({key: value for key, value in d.items() if key in differ} for d in (before, after))
        advice = f"; {ADVICE[name]}" if name in ADVICE else ""
        raise ModelError(f"{path} was saved with {what} {_shown(before)}, this run has {_shown(after)}{advice}")


def _shown(value: Any) -> str:
    """In full, but for a hash: its beginning tells it from others."""
    return f"{value[:8]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else str(value)


def _first_difference(before: list[Any], after: list[Any]) -> tuple[str, Any, Any]:
    """Where two ordered lists of parameters part.

    ZeRO loads its partitions by position: the same parameters in another order would load, swapped.
    """
    i = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    first, second = (entries[i] if i < len(entries) else "absent" for entries in (before, after))
    return f"trainable parameter {i}", _spelled(first), _spelled(second)


def _spelled(entry: Any) -> str:
    return " ".join(map(str, entry)) if isinstance(entry, list) else str(entry)


def _verify(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():  # sizes first: they cost nothing
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing; resume from another checkpoint")
        if path.stat().st_size != entry["bytes"]:
            raise ModelError(
                f"{path} is damaged: {path.stat().st_size} bytes, {entry['bytes']} were saved; "
                "resume from another checkpoint"
            )
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(sha256_of_file, (folder / name for name in manifest.files))
        for (name, entry), sha256 in zip(manifest.files.items(), hashes, strict=True):
            if sha256 != entry["sha256"]:
                raise ModelError(
                    f"{folder / name} is damaged: its content is not what was saved; resume from another checkpoint"
                )


def _describe_on_disk(path: Path) -> dict[str, Any]:
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
