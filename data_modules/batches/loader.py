"""Planned micro-batches, loaded so that a run can resume exactly where it was.

A plan lists the rows of every micro-batch of the run, over all ranks. Rank r of W takes the micro-batches r, r + W, …,
so one number, the micro-batches that each rank has had, says where a run is. Rows are pure functions of their numbers:
resuming reads nothing twice, and the number of worker processes changes nothing.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from data_modules.batches.rows import Rows, collate
from glmja.errors import ModelError
from glmja.modeling.batch import IGNORE_INDEX, Batch
from glmja.modeling.contracts import TrainingLoader

_WORKER_TIMEOUT = 300  # seconds; without a limit, a worker that hangs would be waited for indefinitely

Plan = Sequence[NDArray[np.int64]] | NDArray[np.int64]  # numbers of the rows of each micro-batch


class LoaderState(TypedDict):
    """Position of a loader, and the data that it belongs to."""

    micro_batches: int  # of one rank
    fingerprint: str
    world_size: NotRequired[int]  # checkpoints of earlier versions lack it


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of one rank."""

    def __init__(
        self, rows: Rows, plan: Plan, rank: int, world_size: int, accumulate: int = 1, multiple: int = 1
    ) -> None:
        """Creates the dataset; rows are read on access.

        Args:
            rows: All rows.
            plan: Numbers of the rows of each micro-batch, over all ranks. The number of micro-batches is divisible by
                `world_size * accumulate`.
            rank: Rank of this process.
            world_size: Number of processes.
            accumulate: Number of micro-batches of a rank in an optimizer step.
            multiple: The width of a batch is rounded up to a multiple of this number.
        """
        assert len(plan) % (world_size * accumulate) == 0
        self.rows, self.plan, self.rank, self.world_size = rows, plan, rank, world_size
        self.accumulate, self.multiple = accumulate, multiple
        self._mean_target_tokens = lru_cache(maxsize=2)(self._count_target_tokens)  # once per optimizer step

    def __len__(self) -> int:
        """Returns the number of micro-batches of this rank."""
        return len(self.plan) // self.world_size

    def largest(self) -> Batch:
        """Returns the micro-batch with the most tokens, including padding; of several, the widest."""

        def size(i: int) -> tuple[int, int]:
            numbers = self._numbers(i)
            width = max(self.rows.length(int(n)) for n in numbers)
            width += -width % self.multiple
            return len(numbers) * width, width

        return self[max(range(len(self)), key=size)]

    def _numbers(self, i: int) -> NDArray[np.int64]:
        return self.plan[i * self.world_size + self.rank]

    def __getitem__(self, i: int) -> Batch:
        """Returns micro-batch i of this rank."""
        batch = collate([self.rows[int(n)] for n in self._numbers(i)], self.multiple)
        batch["mean_target_tokens"] = torch.tensor(self._mean_target_tokens(i // self.accumulate))
        return batch

    def _count_target_tokens(self, step: int) -> float:
        """Returns the mean number of target tokens over all micro-batches of an optimizer step, on all ranks."""
        in_step = self.world_size * self.accumulate
        numbers = np.concatenate([*self.plan[step * in_step : (step + 1) * in_step]])
        return self.rows.num_target_tokens(numbers) / in_step


class RunLoader(TrainingLoader):
    """Loads the micro-batches of a run; its state is how many it has returned.

    Lightning asks for `len` (the whole run, also after a resume) and saves `state_dict` in checkpoints.
    """

    def __init__(self, batches: PlannedBatches, num_workers: int, fingerprint: str) -> None:
        """Starts at the first micro-batch.

        Args:
            batches: Micro-batches of this rank.
            num_workers: Number of processes that load them; 0 loads them in the main process.
            fingerprint: Hash of everything that the plan depends on.
        """
        self.batches, self.num_workers, self.fingerprint = batches, num_workers, fingerprint
        self._done = 0

    def __len__(self) -> int:
        """Returns the number of micro-batches of the run on this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the remaining micro-batches."""
        if self._done >= len(self):
            self._done = 0
        for batch in load(self.batches, range(self._done, len(self)), self.num_workers):
            self._done += 1
            yield batch

    def largest(self) -> Batch:
        """Returns the micro-batch with the most tokens, including padding."""
        return self.batches.largest()

    def state_dict(self) -> LoaderState:
        """Returns the position."""
        return {
            "micro_batches": self._done,
            "fingerprint": self.fingerprint,
            "world_size": self.batches.world_size,
        }

    def load_state_dict(self, state: LoaderState) -> None:
        """Continues at the position of another loader, possibly of another number of ranks.

        Raises:
            ModelError: If that loader had other data.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ModelError(
                f"the checkpoint was saved with other data or settings of it (fingerprint {state['fingerprint']}, now "
                f"{self.fingerprint}); take sources, weights, row length, batch size and seed from RUN_DIR/config.yaml"
            )
        world_size = self.batches.world_size
        self._done = state["micro_batches"] * state.get("world_size", world_size) // world_size


def load(batches: Dataset[Batch], numbers: Sequence[int], num_workers: int) -> DataLoader[Batch]:
    """Returns a loader of micro-batches.

    Args:
        batches: The micro-batches.
        numbers: Which of them, in which order.
        num_workers: Number of processes that load them; 0 loads them in the main process.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        timeout=_WORKER_TIMEOUT if num_workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_stop_signals,
        # a DataLoader draws a seed for its workers; from the global generator, it would change the dropout of a resumed
        # run
        generator=torch.Generator(),
    )


def _ignore_stop_signals(worker: int) -> None:
    """Lets workers ignore SIGUSR1, Ctrl-C and the first SIGTERM, so that the main process can finish its step."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the second SIGTERM ends the worker: at exit, multiprocessing waits for the processes that it has terminated
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class DistributedEvalBatches(Dataset[Batch]):
    """Batches of validation rows in order, the same number on each rank.

    A rank without rows left gets a batch without target tokens: ranks that call the model a different number of times
    may wait for each other indefinitely.
    """

    def __init__(
        self, rows: Rows, num_rows: int, batch_size: int, rank: int, world_size: int, multiple: int = 1
    ) -> None:
        """Creates the dataset; rows are read on access.

        Args:
            rows: The rows.
            num_rows: Number of rows.
            batch_size: Number of rows in a batch.
            rank: Rank of this process.
            world_size: Number of processes.
            multiple: The width of a batch is rounded up to a multiple of this number.
        """
        self.rows, self.num_rows, self.batch_size = rows, num_rows, batch_size
        self.rank, self.world_size, self.multiple = rank, world_size, multiple

    def __len__(self) -> int:
        """Returns the number of batches of this rank."""
        return math.ceil(self.num_rows / (self.batch_size * self.world_size))

    def __getitem__(self, i: int) -> Batch:
        """Returns batch i of this rank."""
        first = (i * self.world_size + self.rank) * self.batch_size
        numbers = range(first, min(first + self.batch_size, self.num_rows)) or range(1)
        batch = collate([self.rows[n] for n in numbers], self.multiple)
        batch["row_numbers"] = torch.tensor(numbers)
        if first >= self.num_rows:
            batch["labels"].fill_(IGNORE_INDEX)
        return batch
