"""Start of a run: its seed, and the run whose weights it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule

from glmja.errors import ModelError
from glmja.runs.identity import RunIdentity
from glmja.runs.manifest import Manifest
from glmja.runs.trained_state import read_tensors

# what two runs must share if one starts with the weights of the other
_SHARED = ("base", "tokenizer", "embeddings", "lora", "tuning", "trainable")


class Origin:
    """Seed and parent of a run.

    The parent is a checkpoint of another run on the same model. A new run starts with its trained parameters, and with
    a new optimizer, schedule and position in its own data.

    Attributes:
        seed: Seed of the random numbers of the run; None if it has none.
        parent: What identifies the parent; None if there is none.
    """

    def __init__(self) -> None:
        """Describes a run that starts with its base model."""
        self.seed: int | None = None
        self.parent: Mapping[str, Any] | None = None
        self._start: tuple[Path, Manifest] | None = None

    def start_with(self, path: Path, saved: Manifest, identity: RunIdentity) -> None:
        """Lets a new run start with the weights of a verified checkpoint.

        Args:
            path: The checkpoint.
            saved: Its manifest.
            identity: What is known of the new run.

        Raises:
            ModelError: If the checkpoint belongs to another model, or has other trainable parameters.
        """
        _check_shared(identity, path, saved)
        self.parent, self._start = describe_parent(saved), (path, saved)

    def load(self, module: LightningModule, identity: RunIdentity) -> None:
        """Copies the weights of the parent into a module, unless the run has none or is resumed.

        Args:
            module: The module, with its trainable parameters.
            identity: What is known of the new run.

        Raises:
            ModelError: If the parameters are not those of the parent.
        """
        if self._start is None:
            return
        path, saved = self._start
        _check_shared(identity, path, saved)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, tensor in read_tensors(path, saved).items():
                parameters[name].copy_(tensor.read_all())


def describe_parent(saved: Manifest) -> Mapping[str, Any]:
    """Returns what identifies a checkpoint, wherever it lies."""
    return {"step": saved.step, "files": saved.fingerprint}


def _check_shared(identity: RunIdentity, path: Path, saved: Manifest) -> None:
    others: dict[str, Any] = {field.name: None for field in fields(RunIdentity) if field.name not in _SHARED}
    now, then = (replace(_without_dropout(each), **others) for each in (identity, saved.identity))
    try:
        now.check_resumable(then, path)
    except ModelError as error:
        raise ModelError(f"`init_from`: {error}") from error


def _without_dropout(identity: RunIdentity) -> RunIdentity:
    lora = identity.lora
    return identity if lora is None else replace(identity, lora={**lora, "dropout": None})
