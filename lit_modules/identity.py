"""Identity of a run, from its trainer, data and training module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from lightning import Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from glmja.modeling.adapters import Embeddings, Lora, Tuning
from glmja.modeling.model_folder import ModelFolder
from glmja.runs.contracts import find_training_data
from glmja.runs.identity import RunIdentity
from lit_modules.optimizers import describe_optimizer
from lit_modules.origin import Origin
from lit_modules.resume_state import ResumeState
from lit_modules.schedules import ScheduleFactory, describe_schedule


class Identifiable(Protocol):
    """Settings of a training module; `model` is None until the weights are loaded."""

    folder: ModelFolder
    tuning: Tuning
    embeddings: Embeddings
    lora: Lora
    optimizer: OptimizerCallable
    lr_scheduler: ScheduleFactory
    resume_state: ResumeState
    origin: Origin
    model: Any
    objective: Mapping[str, Any] | None


def module_identity(module: Identifiable, trainer: Trainer) -> RunIdentity:
    """Returns what a checkpoint of a run depends on.

    Args:
        module: Training module of the run.
        trainer: Trainer of the run. `data` is known once its data module has planned the run, `trainable` once the
            weights are loaded.
    """
    trainable = None
    if module.model is not None:
        assert isinstance(module, nn.Module)
        trainable = tuple((n, tuple(p.shape)) for n, p in module.named_parameters() if p.requires_grad)
    return replace(
        trainer_identity(trainer),
        base=module.folder.fingerprint,
        tokenizer=module.folder.tokenizer.fingerprint,
        trainable=trainable,
        embeddings=module.embeddings,
        lora=asdict(module.lora) if module.tuning == "lora" else None,
        tuning=module.tuning,
        objective=module.objective,
        optimizer=describe_optimizer(module.optimizer),
        schedule=describe_schedule(module.lr_scheduler),
        schedule_start=module.resume_state.schedule_start or None,
        seed=module.origin.seed,
        parent=module.origin.parent,
    )


def trainer_identity(trainer: Trainer) -> RunIdentity:
    """Returns what a checkpoint depends on that trainer and data module know; the data once it is planned."""
    data = find_training_data(trainer)
    planned = None if data is None or data.fingerprint is None else data
    return RunIdentity(
        world_size=trainer.world_size,
        precision=str(trainer.precision),
        strategy=type(trainer.strategy).__name__,
        micro_batches_per_step=trainer.world_size * trainer.accumulate_grad_batches,
        data=None if planned is None else planned.fingerprint,
        data_settings=None if planned is None else planned.settings,
        plan_ranks=None if planned is None else planned.plan_ranks(),
    )
