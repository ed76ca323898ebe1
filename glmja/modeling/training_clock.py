"""Measures how long a run has been training, other work left out."""

from __future__ import annotations

import time

import torch


class TrainingClock:
    """A stopwatch of training steps.

    `callbacks.Throughput` starts it with each micro-batch. Whoever does something else between two micro-batches, such
    as validation, saving or sampling, stops it first.

    Attributes:
        seconds: Time measured since the last `reset`, up to the last `stop`.
    """

    def __init__(self) -> None:
        """Creates a clock that is stopped."""
        self.seconds = 0.0
        self._running_since: float | None = None

    def start(self) -> None:
        """Starts the clock; does nothing if it is running."""
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def stop(self) -> None:
        """Stops the clock once the GPU has done all work that it was given; does nothing if it is stopped."""
        if self._running_since is not None:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def reset(self) -> None:
        """Sets the measured time to zero; a running clock keeps running."""
        self.seconds = 0.0
        if self._running_since is not None:
            self._running_since = time.perf_counter()
