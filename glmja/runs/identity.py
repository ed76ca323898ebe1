"""What a run must have in common with the run that saved a checkpoint, so that it can resume from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glmja.errors import ModelError

Parameter = tuple[str, tuple[int, ...]]  # name, shape

ADVICE = {
    "optimizer": "set the saved values, or `resume_with_new_optimizer` to go on with the weights and a new optimizer",
    "schedule": "set the saved values, or `resume_with_new_optimizer` to go on with the weights and a new optimizer",
    "world_size": "resume on as many devices as it was saved on",
    "precision": "set `precision` to the saved value",
    "strategy": "set `strategy` to the saved one",
    "base": "use the model folder that the run started from",
    "tokenizer": "use the tokenizer that the run started with",
    "data": "take sources, weights, row_len, batch size, accumulation and seed from RUN_DIR/config.yaml",
    "trainable": "use the model, the adapters and the trainable parameters of the saved run",
}

# types in JSON; each field may also be absent or null
_KINDS: dict[str, type | tuple[type, ...]] = {
    "world_size": int, "precision": str, "strategy": str, "base": str, "tokenizer": str, "data": str,
    "trainable": (list, tuple), "embeddings": str, "lora": dict, "tuning": str, "optimizer": dict, "schedule": dict,
    "schedule_start": int,
}  # fmt: skip

# fields that the first checkpoints do not have
_LATER = ("optimizer", "schedule", "schedule_start")


@dataclass(frozen=True)
class RunIdentity:
    """Properties of a run that its checkpoints depend on.

    A field is None as long as it is unknown: `data` until the run is planned, `trainable` until the model is built.
    Fields are compared in the order in which they are declared.

    Attributes:
        world_size: Number of processes.
        precision: Precision of the trainer, as in `bf16-mixed`.
        strategy: Class name of the trainer's strategy.
        base: Fingerprint of the weights that the run started from.
        tokenizer: Fingerprint of the tokenizer.
        data: Fingerprint of the micro-batches of the run and their order.
        trainable: Names and shapes of the trainable parameters, in the order of registration: ZeRO restores flat
            partitions by position, so the same parameters in another order would load, swapped.
        embeddings: How the embeddings are trained.
        lora: Settings of the adapters; None if there are none.
        tuning: How the transformer is trained.
        optimizer: Class and hyperparameters of the optimizer, which its state holds as well.
        schedule: Class and arguments of the learning-rate schedule, without the length of the run.
        schedule_start: Optimizer step at which the schedule began, if not the first.
    """

    world_size: int | None = None
    precision: str | None = None
    strategy: str | None = None
    base: str | None = None
    tokenizer: str | None = None
    data: str | None = None
    trainable: Sequence[Parameter] | None = None
    embeddings: str | None = None
    lora: Mapping[str, Any] | None = None
    tuning: str | None = None
    optimizer: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | None = None
    schedule_start: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the known fields as types of JSON."""
        known = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or (name == "lora" and self.tuning is not None)
        }
        return json.loads(json.dumps(known))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunIdentity:
        """Returns the identity that `as_json` described.

        Raises:
            TypeError: If a key is unknown, or a value of another type.
            ValueError: If `trainable` is not a list of names and shapes.
        """
        for name, kind in _KINDS.items():
            value = content.get(name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
        trainable = content.get("trainable")
        if trainable is not None:
            trainable = tuple((name, tuple(shape)) for name, shape in trainable)
            for name, shape in trainable:
                if not isinstance(name, str) or not all(type(length) is int for length in shape):
                    raise TypeError(f"trainable has {str(name)[:40]!r} of {str(shape)[:40]!r}")
        return cls(**{**content, "trainable": trainable})

    def check_resumable(self, saved: RunIdentity, path: str | Path) -> None:
        """Checks that this run may continue from a checkpoint; fields that are still unknown are skipped.

        Args:
            saved: Identity of the run that saved the checkpoint.
            path: The checkpoint, for the message.

        Raises:
            ModelError: If a field differs; gives the first difference with both values.
        """
        now, then = self.as_json(), saved.as_json()
        for name in (field.name for field in fields(self)):
            if name in _LATER and name not in then:
                continue
            if name in now and now[name] != then.get(name):
                what, before, after = _difference(name, then.get(name), now[name])
                advice = f"; {ADVICE[name]}" if name in ADVICE else ""
                raise ModelError(f"{path} was saved with {what} {_shown(before)}, this run has {_shown(after)}{advice}")


def _difference(name: str, before: Any, after: Any) -> tuple[str, Any, Any]:
    """Returns what differs, and both values; of a list or a mapping, only the part that differs."""
    if name == "trainable" and isinstance(before, list) and isinstance(after, list):
        pairs = enumerate(zip(before, after, strict=False))
        i = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
        first, second = (entries[i] if i < len(entries) else "absent" for entries in (before, after))
        return f"trainable parameter {i}", first, second
    if isinstance(before, dict) and isinstance(after, dict):
        differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        before, after = ({key: value for key, value in d.items() if key in differ} for d in (before, after))
    return name, before, after


def _shown(value: Any) -> str:
    """Returns a value as text; of a hash, the first characters are enough to tell it from others."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value[:8]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else str(value)
