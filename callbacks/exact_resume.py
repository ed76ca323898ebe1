"""Saves and restores the random states, which Lightning does not save, and lets a finished run be extended."""

from __future__ import annotations

import random
from typing import Any, TypedDict

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.event_files import flush_event_files, remove_records, remove_records_after
from glmja.errors import ModelError
from glmja.runs.contracts import find_training_data
from glmja.runs.manifest import LightningState

RNG = "rng"  # key of the random states in a checkpoint
EVENT_FILES = "event_files"  # key of the sizes of TensorBoard's files


class RandomState(TypedDict):
    """Random states of a process, as types that `torch.load` accepts without running code.

    `python` holds version, words and the next Gaussian number; `numpy` holds the name of the generator, its words and
    three numbers.
    """

    python: list[Any]
    numpy: list[Any]
    torch: Tensor
    cuda: list[Tensor]


class ExactResume(Callback):
    """Saves the random states of every process and restores them, so that a resumed run draws the same numbers.

    Validation and sampling must not draw from the global generators, or do so inside `isolate_rng`.
    """

    def __init__(self) -> None:
        """Creates the callback; no state is loaded yet."""
        self.loaded: RandomState | None = None
        self.validation_is_due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes what an earlier attempt logged if the run starts from the beginning."""
        if trainer.ckpt_path is None:
            remove_records(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState) -> None:
        """Adds the states of all processes, since DeepSpeed saves only those of the first, and what has been logged."""
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint[RNG] = states
        checkpoint[EVENT_FILES] = flush_event_files(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState) -> None:
        """Keeps the state of this process until training starts, and removes what was logged after the checkpoint.

        Raises:
            ModelError: If the checkpoint holds no states.
        """
        states = checkpoint.get(RNG, [])
        if not states:
            raise ModelError(
                "the checkpoint holds no random states: it was saved by a run without ExactResume, and cannot be "
                "resumed exactly; start a new run from it with `init_from`"
            )
        # a run may go on with another number of processes; then its dropout is another one
        self.loaded = states[trainer.global_rank % len(states)]
        _rescale(checkpoint, len(states), trainer.world_size)
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
        self.validation_is_due = batches["completed"] < batches["processed"]
        data = find_training_data(trainer)
        if data is not None and data.num_steps > checkpoint["global_step"]:
            _reopen_epoch(checkpoint)
        remove_records_after(trainer, checkpoint.get(EVENT_FILES, {}), checkpoint["global_step"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the state once all set-up has drawn from it, and runs a validation that is still due."""
        if self.loaded is None:
            return
        set_random_state(self.loaded)
        self.loaded = None
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if self.validation_is_due and loop._should_check_val_fx(fetcher):
            # the checkpoint was saved before this validation, and the run may have been killed during it; Lightning
            # would skip it
            loop.val_loop.restarting = False  # start with the first batch
            trainer.validating = True
            loop.val_loop.run()
            trainer.training = True


def _rescale(checkpoint: LightningState, before: int, now: int) -> None:
    """Counts the micro-batches of a process as if there had always been the present number of processes.

    An optimizer step takes as many micro-batches, so each process takes more or fewer of them.

    Args:
        checkpoint: The state; saved after a whole optimizer step.
        before: Number of processes that saved it.
        now: Number of processes of this run.
    """
    if before == now:
        return
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        behind = counts["processed"] - counts["completed"]
        for name in ("ready", "started", "processed"):
            counts[name] = counts[name] * before // now
        counts["completed"] = counts["processed"] - behind


def _reopen_epoch(checkpoint: LightningState) -> None:
    """Marks the only epoch of a run as unfinished if the run ended before its data did.

    Lightning 2.6 records in the progress of its loops that the epoch is over even if a limit of steps or time or early
    stopping ended it, and would stop at once. This writes what Lightning records after a step within an epoch.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, stepped = loops["epoch_loop.batch_progress"], loops["epoch_loop.state_dict"]
    epoch = loops["epoch_progress"]["current"]
    if not batches["is_last_batch"] and epoch["completed"] < epoch["started"]:
        return
    batches["is_last_batch"] = False
    for counts in (batches["total"], batches["current"]):
        counts["completed"] = counts["processed"] - 1
    stepped["_batches_that_stepped"] = checkpoint["global_step"] - 1
    for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
        counts["completed"] = counts["processed"] = counts["started"] - 1


def random_state() -> RandomState:
    """Returns the states of Python, NumPy, torch and every CUDA device."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: RandomState) -> None:
    """Restores what `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
