"""Identity of a run: properties that must equal those of the run that saved a checkpoint to resume from it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glmja.errors import ModelError

Parameter = tuple[str, tuple[int, ...]]  # name, shape

_NEW_RUN = "or start a new run from it with `init_from` {path} and another `run_dir`"
_EXPORT = (
    "or export it (python -m glmja.export --checkpoint {path} --output MODEL) and start a new run with that `model_dir`"
)
_OPTIMIZER = "set the saved values, or `resume_with_new_optimizer` to go on with the weights and a new optimizer"

# what to do about each field that differs; {path} is the checkpoint
ADVICE = {
    "world_size": f"this strategy resumes on as many devices as it was saved on; set `devices`, {_NEW_RUN}",
    "precision": f"set `precision` to the saved value, {_NEW_RUN}",
    "strategy": f"set `strategy` to the saved one, {_NEW_RUN}",
    "micro_batches_per_step": "set `accumulate_grad_batches` so that devices × accumulate_grad_batches is the saved "
    f"number, {_NEW_RUN}",
    "base": f"set `model_dir` to the model folder that the run started from, {_EXPORT}",
    "tokenizer": f"set `model_dir` to the folder with the tokenizer that the run started with, {_EXPORT}",
    "data": "take sources, weights, row length, batch size, accumulation and seed from RUN_DIR/config.yaml, "
    + _NEW_RUN,
    "trainable": f"use the model, the adapters and the trainable parameters of the saved run, {_EXPORT}",
    "embeddings": f"set `embeddings` to the saved value, {_EXPORT}",
    "lora": f"set `lora` to the saved values, {_EXPORT}",
    "tuning": f"set `tuning` to the saved value, {_EXPORT}",
    "objective": f"set `retention` and `embedding_pull` to the saved values, {_NEW_RUN}",
    "optimizer": f"{_OPTIMIZER}, {_NEW_RUN}",
    "schedule": f"{_OPTIMIZER}, {_NEW_RUN}",
    "schedule_start": f"{_OPTIMIZER}, {_NEW_RUN}",
    "seed": f"the random states go on from the checkpoint: set `seed_everything` to the saved value, {_NEW_RUN}",
    "parent": "a resumed run goes on from its own weights: leave out `init_from`, or start a new run with it in "
    "another `run_dir`",
}

# types in JSON; each field may also be absent or null
_KINDS: dict[str, type | tuple[type, ...]] = {
    "world_size": int, "precision": str, "strategy": str, "micro_batches_per_step": int, "base": str,
    "tokenizer": str, "data": str, "trainable": (list, tuple), "embeddings": str, "lora": dict, "tuning": str,
    "objective": dict, "optimizer": dict, "schedule": dict, "schedule_start": int, "seed": int, "parent": dict,
    "data_settings": dict, "plan_ranks": int,
}  # fmt: skip

# checkpoints written before these fields existed lack them
_LATER = ("optimizer", "schedule", "schedule_start", "micro_batches_per_step", "seed")
# what explains another field, or says how to go on
_NOT_COMPARED = ("data_settings", "plan_ranks")
# a checkpoint of one of these strategies is the same for all of them, and for any number of devices
_WHOLE_STATE = ("SingleDeviceStrategy", "DDPStrategy")
_MAX_SHOWN = 300  # characters of a value


@dataclass(frozen=True)
class RunIdentity:
    """Properties of a run that its checkpoints depend on.

    A field is None as long as it is unknown: `data` until the run is planned, `trainable` until the model is built.
    Fields are compared in the order in which they are declared.

    Attributes:
        world_size: Number of processes.
        precision: Precision of the trainer, as in `bf16-mixed`.
        strategy: Class name of the trainer's strategy.
        micro_batches_per_step: Number of micro-batches in an optimizer step, over all processes.
        base: Fingerprint of the weights that the run started from.
        tokenizer: Fingerprint of the tokenizer.
        data: Fingerprint of the micro-batches of the run and their order.
        trainable: Names and shapes of the trainable parameters, in the order of registration: ZeRO restores flat
            partitions by position, so the same parameters in another order would load, swapped.
        embeddings: How the embeddings are trained.
        lora: Settings of the adapters; None if there are none.
        tuning: How the transformer is trained.
        objective: What is trained for besides cross entropy; None if nothing is.
        optimizer: Class and hyperparameters of the optimizer, which its state holds as well.
        schedule: Class and arguments of the learning-rate schedule, without the length of the run.
        schedule_start: Optimizer step at which the schedule began, if not the first.
        seed: Seed of the random numbers of a run from its start.
        parent: Checkpoint that the run took its first weights from: `step`, and a hash of its `files`.
        data_settings: What `data` depends on, to name what differs; not compared.
        plan_ranks: Number of processes that the order of the micro-batches was made for; not compared.
    """

    world_size: int | None = None
    precision: str | None = None
    strategy: str | None = None
    micro_batches_per_step: int | None = None
    base: str | None = None
    tokenizer: str | None = None
    data: str | None = None
    trainable: Sequence[Parameter] | None = None
    embeddings: str | None = None
    lora: Mapping[str, Any] | None = None
    tuning: str | None = None
    objective: Mapping[str, Any] | None = None
    optimizer: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | None = None
    schedule_start: int | None = None
    seed: int | None = None
    parent: Mapping[str, Any] | None = None
    data_settings: Mapping[str, Any] | None = None
    plan_ranks: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the known fields as types of JSON."""
        known = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or (name in ("lora", "objective") and self.tuning is not None)
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
        same_state = {now.get("strategy"), then.get("strategy")} <= {*_WHOLE_STATE}
        skipped = {*_NOT_COMPARED, *(("world_size", "strategy") if same_state else ())}
        for name in (field.name for field in fields(self)):
            if name in skipped or (name in _LATER and name not in then):
                continue
            if name in now and now[name] != then.get(name):
                what, before, after = _difference(name, then, now)
                advice = ADVICE[name].format(path=shlex.quote(str(path)))
                raise ModelError(
                    f"{path} was saved with {what} {_shown(before)}, this run has {_shown(after)}; {advice}"
                )


def _difference(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Returns what differs, and both values; of a list or a mapping, only the part that differs."""
    before, after = then.get(name), now[name]
    if name == "data" and then.get("data_settings", now.get("data_settings")) != now.get("data_settings"):
        before, after = then["data_settings"], now["data_settings"]
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
    """Returns a value as text; of a hash, the first characters are enough to distinguish it from others."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        value = {key: _hash_start(item) for key, item in value.items()}
    text = str(_hash_start(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _hash_start(value: Any) -> Any:
    return f"{value[:8]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else value
