"""Checkpoints of one device, or of DDP, as folders with a manifest."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from glmja.errors import ModelError
from glmja.runs import manifest

STATE = "state.ckpt"


class CheckpointFolders(CheckpointIO):
    """Saves `NAME.ckpt/{state.ckpt, manifest.json}`: complete or absent, verified before it is loaded.

    Lightning's own way stages in `$TMPDIR` and copies, which a full disk leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves; only the first process is asked to.

        Args:
            checkpoint: What Lightning saves, with the facts of the run under `glmja.runs.manifest.FACTS`, if any.
            path: The folder to make.
            storage_options: Must be None.

        Raises:
            FileExistsError: If there is a checkpoint of that name.
            OSError: If it cannot be written, as on a full disk.
        """
        assert storage_options is None
        partial = manifest.begin(path)
        try:
            torch.save(checkpoint, partial / STATE)
        except (RuntimeError, OSError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise manifest.not_written(path, error) from error
        manifest.complete(partial, path, checkpoint["global_step"], checkpoint.get(manifest.FACTS, {}))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verifies, then loads without running code.

        Args:
            path: The folder.
            map_location: As for `torch.load`; the CPU by default.
            weights_only: Ignored: always true.

        Raises:
            FileNotFoundError: If there is nothing of that name.
            ValueError: If the checkpoint is incomplete or damaged, or holds code.
        """
        if STATE not in manifest.read(path).files:
            raise ModelError(f"{path} holds no {STATE}: it was saved by another strategy; resume with that one")
        try:
            return torch.load(Path(path) / STATE, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ModelError(f"{Path(path) / STATE} holds code; it was not loaded") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the folder."""
        manifest.remove(path)
