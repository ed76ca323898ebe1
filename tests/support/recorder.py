"""Callbacks that record each micro-batch, and callbacks that make a run fail or kill its group of processes."""

import functools
import hashlib
import json
import os
import signal
from pathlib import Path

import torch
from lightning import Callback


def die():
    """Kills the group of processes, as `kill -9` does."""
    os.killpg(0, signal.SIGKILL)


class Recorder(Callback):
    def __init__(self, path: str, kill_at: int = -1) -> None:
        """Kills the run after `kill_at` micro-batches of the first process."""
        self.path, self.kill_at, self.seen = Path(path), kill_at, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ids = hashlib.sha256(batch["input_ids"].numpy().tobytes()).hexdigest()[:16]
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        record = [batch_idx, trainer.global_step, ids, outputs["loss"].item().hex(), rate]
        with self.path.with_suffix(f".{trainer.global_rank}").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.seen += 1
        if self.seen == self.kill_at and trainer.is_global_zero:
            die()


class KillInSave(Callback):
    """Kills the run during the save of a step, after a number of file operations of the first process."""

    def __init__(self, step: int, acts: int, tear: bool = False) -> None:
        """Counts `torch.save`, `os.fsync` and `Path.rename` after the step.

        Args:
            step: Optimizer step after which operations count.
            acts: Number of operations after which the run is killed.
            tear: Whether to truncate the file of the last `torch.save` to half its size.
        """
        self.step, self.acts, self.tear, self.armed = step, acts, tear, False

    def setup(self, trainer, pl_module, stage):
        if trainer.is_global_zero:
            for owner, name in ((torch, "save"), (os, "fsync"), (Path, "rename")):
                setattr(owner, name, self.counted(getattr(owner, name)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.armed = trainer.global_step == self.step

    def counted(self, act):
        @functools.wraps(act)
        def counting(*args, **options):
            result = act(*args, **options)
            # ranks also pickle tensors into memory to send them
            to_memory = act.__name__ == "save" and not isinstance(args[1], str | Path)
            if self.armed and not to_memory:
                self.acts -= 1
                if self.acts == 0:
                    if self.tear:
                        os.truncate(args[1], Path(args[1]).stat().st_size // 2)
                    die()
            return result

        return counting


class Fail(Callback):
    def __init__(self, rank: int, how: str, note: str) -> None:
        """Fails on one rank after the second step.

        Args:
            rank: Rank that fails.
            how: `raise` or `kill`.
            note: File to create before failing.
        """
        self.rank, self.how, self.note = rank, how, Path(note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            self.note.touch()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("out of memory")


class StopEarly(Callback):
    def __init__(self, at: int) -> None:
        """Stops after `at` micro-batches, as early stopping does."""
        self.at = at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or batch_idx + 1 == self.at


def records(path: Path, rank: int = 0) -> dict[int, list]:
    """Returns the last record of each micro-batch; empty if the process wrote none."""
    path = path.with_suffix(f".{rank}")
    lines = path.read_text().splitlines() if path.exists() else []
    return {record[0]: record for record in map(json.loads, lines)}
