"""Planned micro-batches, handed out so that a run can go on exactly where it was.

A plan lists the rows of every micro-batch of the run, over all ranks. Rank r of W takes numbers r, r + W, …; so one
number, the micro-batches that each rank has had, says where a run stands. Rows are pure functions of their numbers:
resuming reads nothing twice, and the number of worker processes changes nothing.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from data_modules.batches.rows import Rows, collate
from glmja.errors import ModelError
from glmja.modeling.batch import IGNORE_INDEX, Batch

_WORKER_TIMEOUT = 300  # seconds; a hanging worker would otherwise be waited for without end

Plan = Sequence[NDArray[Any]] | NDArray[Any]  # row numbers by micro-batch


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of one rank."""

    def __init__(
        self, rows: Rows, plan: Plan, rank: int, world_size: int, accumulate: int = 1, multiple: int = 1
    ) -> None:
        """Reads nothing yet.

        Args:
            rows: Rows by number.
            plan: Numbers of the rows of each micro-batch, over all ranks; as many as ranks times `accumulate` divides.
            rank: This process among all.
            world_size: Processes.
            accumulate: Micro-batches of a rank in an optimizer step.
            multiple: Rounds the width of a batch up.
        """
        assert len(plan) % (world_size * accumulate) == 0
        self.rows, self.plan, self.rank, self.world_size = rows, plan, rank, world_size
        self.accumulate, self.multiple = accumulate, multiple

    def __len__(self) -> int:
        """Micro-batches of this rank."""
        return len(self.plan) // self.world_size

    def largest(self) -> Batch:
        """The micro-batch with the most tokens, padding included; the widest of these."""

        def size(i: int) -> tuple[int, int]:
            numbers = self._numbers(i)
            width = max(self.rows.length(int(n)) for n in numbers)
            width += -width % self.multiple
            return len(numbers) * width, width

        return self[max(range(len(self)), key=size)]

    def _numbers(self, i: int) -> NDArray[Any]:
        return self.plan[i * self.world_size + self.rank]

    def __getitem__(self, i: int) -> Batch:
        """Micro-batch i of this rank."""
        batch = collate([self.rows[int(n)] for n in self._numbers(i)], self.multiple)
        in_step = self.world_size * self.accumulate
        first = i // self.accumulate * in_step
        learnt = sum(
            self.rows.num_target_tokens(int(n)) for numbers in self.plan[first : first + in_step] for n in numbers
        )
        batch["mean_target_tokens"] = torch.tensor(learnt / in_step)
        return batch


class RunLoader:
    """Loads the micro-batches of a run; its state is how many were handed out.

    Lightning asks for `len` (the whole run, also after a resume) and keeps `state_dict` in checkpoints.
    """

    def __init__(self, batches: PlannedBatches, num_workers: int, fingerprint: str) -> None:
        """Starts at the first micro-batch.

        Args:
            batches: Those of this rank.
            num_workers: Processes that load them; 0 for the main process.
            fingerprint: Of everything that the plan depends on.
        """
        self.batches, self.num_workers, self.fingerprint = batches, num_workers, fingerprint
        self._done = 0

    def __len__(self) -> int:
        """Micro-batches of the run on this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Hands out what is left."""
        if self._done >= len(self):
            self._done = 0
        for batch in load(self.batches, range(self._done, len(self)), self.num_workers):
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int | str]:
        """Where the run stands."""
        return {"micro_batches": self._done, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a run stood.

        Raises:
            ValueError: If that run had other data.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ModelError(
                f"the checkpoint was made with other data or settings of it (fingerprint {state['fingerprint']}, now "
                f"{self.fingerprint}); take sources, weights, row_len, batch size and seed from RUN_DIR/config.yaml"
            )
        self._done = state["micro_batches"]


def load(batches: Dataset[Batch], numbers: Sequence[int], num_workers: int) -> DataLoader[Batch]:
    """Loads micro-batches by number, in order."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        timeout=_WORKER_TIMEOUT if num_workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_a_signal,
        # a loader draws a seed for its workers: from the global generator, it would change the dropout of a run that
        # is resumed
        generator=torch.Generator(),
    )


def _outlive_a_signal(worker: int) -> None:
    """A signal that all processes of a run get is for the main one, which needs its workers to end the step."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # the second one ends the worker: multiprocessing waits at exit for those that it has terminated
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class DistributedEvalBatches(Dataset[Batch]):
    """Rows for validation, one batch after the other, as many on each rank.

    A rank that has no rows left gets a batch of which nothing is learnt: ranks that call the model a different number
    of times may wait for each other without end.
    """

    def __init__(
        self, rows: Rows, num_rows: int, batch_size: int, rank: int, world_size: int, multiple: int = 1
    ) -> None:
        """Reads nothing yet."""
        self.rows, self.num_rows, self.batch_size = rows, num_rows, batch_size
        self.rank, self.world_size, self.multiple = rank, world_size, multiple

    def __len__(self) -> int:
        """Batches of this rank."""
        return math.ceil(self.num_rows / (self.batch_size * self.world_size))

    def __getitem__(self, i: int) -> Batch:
        """Batch i of this rank."""
        first = (i * self.world_size + self.rank) * self.batch_size
        numbers = range(first, min(first + self.batch_size, self.num_rows)) or range(1)
        batch = collate([self.rows[n] for n in numbers], self.multiple)
        if first >= self.num_rows:
            batch["labels"].fill_(IGNORE_INDEX)
        return batch
