"""Progress of a run as lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from glmja.files.progress import SECONDS_PER_LINE, progress_state
from glmja.runs.contracts import find_training_data


class ProgressLines(Callback):
    """Prints a line on standard error every half a minute, with step, rate, time left and loss.

    It prints nothing where both outputs are a terminal, which shows Lightning's progress bar. In a file, the bar would
    appear only once, at the end. The rate counts the steps since training started, without validation.
    """

    def __init__(self, seconds_per_line: float = SECONDS_PER_LINE) -> None:
        """Creates the callback.

        Args:
            seconds_per_line: Time between two lines.
        """
        self.seconds_per_line = seconds_per_line
        self._first_step, self._seconds, self._since, self._last_line = 0, 0.0, 0.0, 0.0
        self._validated = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count."""
        self._first_step, self._seconds = trainer.global_step, 0.0
        self._since = self._last_line = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count the batches of a validation."""
        self._seconds += time.monotonic() - self._since
        self._validated = 0
        self._since = self._last_line = time.monotonic()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints a line if it is time."""
        self._validated += 1
        if self._is_due(trainer):
            numbers = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
            state = progress_state(self._validated, sum(numbers), "batches", time.monotonic() - self._since)
            self._print("validation", state)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resumes counting steps."""
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints a line if it is time."""
        if not self._is_due(trainer):
            return
        data, seconds = find_training_data(trainer), self._seconds + time.monotonic() - self._since
        total = trainer.max_steps if data is None else data.num_steps
        # a resumed run has not taken the time of the steps before
        done = trainer.global_step - self._first_step
        state = progress_state(done, total - self._first_step, "steps", seconds)
        loss = trainer.callback_metrics.get("train/loss")
        text = f"{state}, train/loss {float(loss):.3f}" if loss is not None else state
        self._print(f"step {trainer.global_step}", text)

    def _is_due(self, trainer: Trainer) -> bool:
        if not trainer.is_global_zero or (sys.stdout.isatty() and sys.stderr.isatty()):
            return False
        return time.monotonic() - self._last_line >= self.seconds_per_line

    def _print(self, what: str, state: str) -> None:
        print(f"{what}: {state}", file=sys.stderr, flush=True)
        self._last_line = time.monotonic()
