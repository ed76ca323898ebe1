"""Saves the last optimizer step, also on SIGTERM, SIGUSR1 or Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from glmja.errors import ExitCode
from glmja.runs import manifest
from glmja.runs.run_folder import RunFolder


class FinalCheckpoint(Callback):
    """Saves a checkpoint at the end of training, and on SIGTERM, SIGUSR1 or Ctrl-C.

    A signal only sets a flag. After the next optimizer step all processes agree, save, and exit with code 143 (130
    after Ctrl-C); a validation that is running is completed first. Resume with `ckpt_path`. Nothing is saved before the
    first step, where Ctrl-C stops the run at once, as it does anywhere when it is pressed again.

    On SLURM, Lightning would answer SIGUSR1 by saving and requeueing inside the signal handler, with collectives that
    hang there if another process is in one of its own. This callback replaces that handler: let the job script requeue
    when it sees 143.
    """

    def __init__(self, dirpath: str) -> None:
        """Creates the callback.

        Args:
            dirpath: Folder of the checkpoints, which are named `step=N.ckpt`.
        """
        self.dirpath = Path(dirpath)
        self.stop_requested = False
        self.exit_code = ExitCode.TERMINATED
        self.is_main = False
        self.step = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the signal handlers for the validation before training; Lightning has just installed its own."""
        self._install_handlers()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the checkpoints of the runs before among those to keep; stops if the signal came before training.

        Raises:
            SystemExit: If the run was stopped by a signal.
        """
        self._install_handlers()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a caller's own handler is kept
            signal.signal(signal.SIGINT, self._interrupt)
        self.is_main = trainer.is_global_zero
        self.step = trainer.global_step
        periodic = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        for callback in reversed(periodic):  # the run's own is the last
            # Lightning does not restore the step that it saved last: after a resume it would save that step again,
            # to the same path and between two accumulated batches.
            callback._last_global_step_saved = self.step
            if trainer.ckpt_path is not None:
                _adopt_checkpoints(trainer, callback, [other for other in periodic if other is not callback])
        # Lightning would never remove the checkpoint that `ckpt_path` names, so `save_top_k` would not hold for it; it
        # has been loaded by now
        trainer.ckpt_path = None
        if self._all_stop(trainer):
            self._exit(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Stops after an optimizer step, since accumulated gradients cannot be saved.

        Raises:
            SystemExit: If the run was stopped by a signal.
        """
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if self._all_stop(trainer):
            self._save(trainer)
            self._exit(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step, unless training ended between accumulated batches, whose gradients are lost."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if batches % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def _install_handlers(self) -> None:
        # Lightning restores the handlers of all signals that it found before the run, however the run ends
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._set_flag)

    def _set_flag(self, *_: Any) -> None:
        self.stop_requested = True

    def _interrupt(self, *_: Any) -> None:
        if self.is_main:  # not `print`, which the signal may have interrupted
            os.write(2, b"\nsaving after this optimizer step; Ctrl-C again stops at once, without saving\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.exit_code = ExitCode.INTERRUPTED
        self._set_flag()

    def _all_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False)

    def _exit(self, trainer: Trainer) -> None:
        # Lightning's launcher kills the main process, with another exit code, when a process that it launched fails
        raise SystemExit(self.exit_code if trainer.local_rank == 0 else 0)

    def _save(self, trainer: Trainer) -> None:
        path = trainer.strategy.broadcast(self._free_path(trainer.global_step) if trainer.is_global_zero else None)
        if path is not None:
            trainer.save_checkpoint(path)

    def _free_path(self, step: int) -> Path | None:
        """Returns where to save; None if that step is saved. A damaged checkpoint keeps its name, as in Lightning."""
        for version in itertools.count():
            path = self.dirpath / RunFolder.checkpoint_name(step, version)
            try:
                manifest.read(path)
            except FileNotFoundError:
                return path
            except ValueError:
                continue
            return None
        raise AssertionError


def _adopt_checkpoints(trainer: Trainer, periodic: ModelCheckpoint, others: Sequence[ModelCheckpoint]) -> None:
    """Lets a callback count the existing checkpoints among its `save_top_k`, and removes those beyond.

    Lightning would permanently keep what it did not save itself, what it resumed from, and what a kill kept it from
    removing. Checkpoints that another callback counts are left to it.
    """
    if periodic.monitor != "step" or periodic.save_top_k < 1 or periodic.dirpath is None:
        return
    beside = [other for other in others if other.dirpath and Path(other.dirpath) == Path(periodic.dirpath)]
    if any(other.save_top_k == -1 for other in beside):  # it keeps all, and need not list them
        return
    theirs = {Path(path) for other in beside for path in other.best_k_models}
    saved = _saved(Path(periodic.dirpath), trainer.global_step)
    found = trainer.strategy.broadcast([(step, path) for step, path in saved if Path(path) not in theirs])
    for _, path in found[: -periodic.save_top_k]:
        trainer.strategy.remove_checkpoint(path)
    kept = {path: torch.tensor(step) for step, path in found[-periodic.save_top_k :]}
    periodic.best_k_models = kept
    if kept:
        periodic.kth_best_model_path, periodic.kth_value = next(iter(kept.items()))


def _saved(folder: Path, step: int) -> list[tuple[int, str]]:
    """Returns steps and paths of the checkpoints up to a step, in the order of steps."""
    found = []
    for path in folder.glob("step=*.ckpt"):
        with suppress(ValueError, OSError):
            found.append((manifest.read(path, verify=False).step, str(path)))
    return sorted(entry for entry in found if entry[0] <= step)
