"""Continues a resumed run whose optimizer, schedule or length has changed."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from glmja.runs.manifest import LightningState, Manifest
from lit_modules.schedules import AnySchedule, create_schedule
from lit_modules.zero2 import ZeRO2

NUM_STEPS = "planned_steps"  # key of the length of the run in a checkpoint

Hyperparameters = dict[str, Any]  # of a parameter group; a run has one


class ResumeState:
    """Adapts the restored optimizer and schedule of a resumed run to its present settings and length.

    Attributes:
        with_new_optimizer: Whether the run begins with a new optimizer, and a schedule of the steps that are left.
        schedule_start: Optimizer step at which the schedule began.
    """

    def __init__(self) -> None:
        """Describes a run from the start."""
        self.with_new_optimizer, self.schedule_start = False, 0
        self._saved_step = 0
        self._saved_length: int | None = None
        self._initial: Hyperparameters = {}

    def resume(self, saved: Manifest, with_new_optimizer: bool) -> None:
        """Prepares for a checkpoint.

        Args:
            saved: Manifest of the checkpoint.
            with_new_optimizer: As the attribute.
        """
        self.with_new_optimizer, self._saved_step = with_new_optimizer, saved.step
        self.schedule_start = saved.step if with_new_optimizer else saved.identity.schedule_start or 0

    def schedule_length(self, num_steps: int) -> int:
        """Returns the number of optimizer steps that the schedule is for.

        Args:
            num_steps: Number of optimizer steps of the run.

        Raises:
            ValueError: If none is left, or the checkpoint is of a later step. A finished run may be resumed.
        """
        if num_steps < self._saved_step and not self.with_new_optimizer:
            raise ValueError(
                f"the run has {num_steps} steps, and its checkpoint is of step {self._saved_step}: no step is left; "
                "raise `max_steps`, or `epochs` if the data ends before"
            )
        if num_steps <= self.schedule_start:
            raise ValueError(
                f"the run has {num_steps} steps, and its checkpoint is of step {self.schedule_start}: no step is left "
                "for a new optimizer; raise `max_steps`"
            )
        return num_steps - self.schedule_start

    def created(self, optimizer: Optimizer) -> None:
        """Keeps the settings of the optimizer, before those of a checkpoint are loaded."""
        self._initial = _settings(optimizer)

    def saved(self, checkpoint: LightningState, num_steps: int) -> None:
        """Adds the length of the run to a checkpoint."""
        checkpoint[NUM_STEPS] = num_steps

    def loaded(self, checkpoint: LightningState) -> None:
        """Leaves out the states of optimizer and schedule if the run begins with new ones."""
        self._saved_length = checkpoint.get(NUM_STEPS)
        if self.with_new_optimizer:
            checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []

    def start(self, trainer: Trainer, factory: AnySchedule, twin: Optimizer, num_steps: int) -> None:
        """Empties the optimizer, or lets the schedule fit the length of the run; once the checkpoint is loaded.

        Args:
            trainer: The trainer.
            factory: Creates the schedule.
            twin: An optimizer with the same settings that has not been used.
            num_steps: Number of optimizer steps of the run.
        """
        if self.with_new_optimizer:
            self._restart(trainer)
        elif trainer.global_step and self._saved_length != num_steps:
            self._follow(trainer, factory, twin, self.schedule_length(num_steps))

    def _restart(self, trainer: Trainer) -> None:
        optimizer = _optimizer(trainer)
        optimizer.state.clear()  # DeepSpeed loads it together with the fp32 weights
        for group in optimizer.param_groups:
            group.update(self._initial)
        rank_zero_info(
            f"step {trainer.global_step}: new optimizer and schedule; the learning rate begins at "
            f"{_rate(self._initial)}"
        )

    @staticmethod
    def _follow(trainer: Trainer, factory: AnySchedule, twin: Optimizer, num_steps: int) -> None:
        """Gives schedule and optimizer the state that they would have in a run that had this length from the start.

        The state of a schedule holds the old length. The rate would stay at the end of the old run for a step, or rise
        again, or the schedule would fail.
        """
        (config,) = trainer.lr_scheduler_configs
        schedule = create_schedule(factory, twin, num_steps)
        twin.step()  # torch warns if a schedule steps first
        for _ in range(config.scheduler.last_epoch):
            schedule.step()
        config.scheduler.load_state_dict(schedule.state_dict())
        optimizer, new = _optimizer(trainer), _settings(twin)
        before = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group.update(new)
        if before != new["lr"]:
            rank_zero_info(
                f"step {trainer.global_step}: the length of the run has changed; the learning rate goes on at "
                f"{_rate(new)}, as in a run of {num_steps} steps"
            )


def _settings(optimizer: Optimizer) -> Hyperparameters:
    return {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}


def _optimizer(trainer: Trainer) -> Any:
    """Returns the optimizer of torch, which DeepSpeed wraps."""
    optimizer: Any = trainer.strategy.optimizers[0]
    return optimizer.optimizer if isinstance(trainer.strategy, ZeRO2) else optimizer


def _rate(settings: Hyperparameters) -> str:
    return f"{float(settings['lr']):.3g}"
