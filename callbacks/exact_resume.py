"""The random states, which Lightning does not save."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from glmja.errors import ModelError

RNG = "rng"


class ExactResume(Callback):
    """Saves the random states of every process and takes them up again: a resumed run draws what it would have.

    Validation and sampling must not draw from the global states, or do so inside `isolate_rng`.
    """

    def __init__(self) -> None:
        """Starts with nothing to take up."""
        self.loaded: dict[str, Any] | None = None
        self.amid_batch = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gathers the states, as DeepSpeed keeps only what the first process saves; and writes the logs out."""
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint[RNG] = states
        for logger in trainer.loggers:  # what a kill takes from their buffers would not be written again
            logger.save()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of this process until training starts.

        Raises:
            ValueError: If the checkpoint has none, or those of another number of processes.
        """
        states = checkpoint.get(RNG, [])
        if len(states) != trainer.world_size:
            raise ModelError(
                f"the checkpoint holds random states of {len(states)} processes, this run has {trainer.world_size}; "
                "resume on as many devices, with ExactResume in both runs"
            )
        self.loaded = states[trainer.global_rank]
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
        self.amid_batch = batches["completed"] < batches["processed"]
        if getattr(getattr(trainer, "datamodule", None), "num_steps", 0) > checkpoint["global_step"]:
            _reopen_epoch(checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the state up, after all set-up has drawn from it, and does a validation that is still to be done."""
        if self.loaded is None:
            return
        set_random_state(self.loaded)
        self.loaded = None
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if self.amid_batch and loop._should_check_val_fx(fetcher):
            # Lightning would take it for done: the checkpoint was saved before it, and the run may have died amid it
            loop.val_loop.restarting = False  # it begins with its first batch
            trainer.validating = True
            loop.val_loop.run()
            trainer.training = True


def _reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Lets a run go on that ended before its data did: its one epoch is not over.

    Lightning 2.6 notes in the loops' progress that the epoch is over, even if a limit of steps or of time or early
    stopping ended it, and would stop at once. What is written here is what it notes after a step in mid-epoch.
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


def random_state() -> dict[str, Any]:
    """States of python, numpy, torch and every CUDA device, of types that `torch.load` takes without running code."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Takes up what `random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
