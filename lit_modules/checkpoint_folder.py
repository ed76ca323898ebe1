"""Checkpoints of one device or of DDP, as folders with a manifest."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.trainer import Trainer

from glmja.errors import ModelError
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from glmja.runs.manifest import LightningState, Manifest
from glmja.runs.run_folder import RunFolder
from lit_modules.first_rank import on_first_rank

STATE = RunFolder.STATE


class CheckpointFolders(CheckpointIO):
    """Saves `NAME.ckpt/{state.ckpt, manifest.json}`: complete or absent, and verified before it is loaded.

    Lightning's own plugin writes to `$TMPDIR` and copies the file, which a full disk interrupts half-way.
    """

    def __init__(self, verified: str | Path | None = None) -> None:
        """Creates the plugin.

        Args:
            verified: Checkpoint that this process has verified already; it is not hashed again when it is loaded.
        """
        self.verified = None if verified is None else Path(verified)

    def open(self, path: str | Path) -> tuple[Path, Manifest]:
        """Verifies a checkpoint in the first process of the run; called by all processes together.

        Args:
            path: The checkpoint. The path of the first process counts: it alone has verified the files when it chose
                the newest checkpoint.

        Returns:
            The path of the first process, and the manifest.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ModelError: If it is incomplete or damaged.
        """
        return on_first_rank(lambda: (Path(path), manifest.read(path, verify=Path(path) != self.verified)))

    def save_checkpoint(self, checkpoint: LightningState, path: str | Path, storage_options: Any | None = None) -> None:
        """Saves a checkpoint; Lightning calls it in the first process only.

        Args:
            checkpoint: State to save, with the identity of the run under `glmja.runs.manifest.IDENTITY_KEY`, if any.
            path: Folder to create.
            storage_options: Must be None.

        Raises:
            FileExistsError: If there is a checkpoint of that name.
            MachineError: If it cannot be written, as on a full disk.
        """
        assert storage_options is None
        partial = manifest.begin(path)
        try:
            torch.save(checkpoint, partial / STATE)
        except (RuntimeError, OSError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise manifest.save_error(path, error) from error
        manifest.complete(partial, path, checkpoint["global_step"], saved_identity(checkpoint))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> LightningState:
        """Verifies a checkpoint, then loads it without running code.

        Args:
            path: The folder.
            map_location: Passed to `torch.load`; the CPU by default.
            weights_only: Ignored: always true.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ModelError: If it is incomplete or damaged, holds code, or was saved by ZeRO.
        """
        folder, saved = self.open(path)
        if STATE not in saved.files:
            raise ModelError(f"{folder} holds no {STATE}: another strategy saved it; resume with that strategy")
        try:
            return torch.load(folder / STATE, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ModelError(f"{folder / STATE} holds code; it was not loaded") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint folder."""
        manifest.remove(path)


def saved_identity(checkpoint: LightningState) -> RunIdentity:
    """Returns the identity in what Lightning saves; that of no run if there is none."""
    return RunIdentity.from_json(checkpoint.get(manifest.IDENTITY_KEY, {}))


def check_resumed(trainer: Trainer, identity: RunIdentity) -> None:
    """Compares a run with the checkpoint that its trainer was given; called by all processes together.

    Args:
        trainer: The trainer, inside `fit`. Nothing is compared if it does not resume.
        identity: What is known of this run by now.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ModelError: If its manifest is damaged, or the run differs from the one that saved it.
    """
    if trainer.ckpt_path is not None:
        given = Path(trainer.ckpt_path)
        path, saved = on_first_rank(lambda: (given, manifest.read(given, verify=False)))
        identity.check_resumable(saved.identity, path)
