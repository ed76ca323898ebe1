"""Reports optimizer steps whose loss or gradients are not finite, and keeps their batches."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from glmja.errors import DivergedError
from glmja.modeling.batch import Batch
from glmja.modeling.contracts import TrainingModule, training_module
from glmja.runs.run_folder import RunFolder

_WINDOW, _MIN_STEPS = 128, 32  # steps that a loss is compared with: at most, and at least

log = logging.getLogger(__name__)


class GuardState(TypedDict):
    """State that a resumed run needs to continue counting."""

    in_a_row: int
    losses: list[float]


@dataclass
class _Step:
    """Micro-batches of an optimizer step on this rank, with their numbers, and their losses."""

    batches: list[tuple[int, Batch]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def values(self) -> list[float]:
        """Returns the losses; Lightning has divided them by the number of micro-batches."""
        return torch.stack(self.losses).tolist()


class NonFiniteGuard(Callback):
    """Reports skipped steps and loss spikes, keeps their batches, and ends a run that diverged.

    `GLMModule` and DeepSpeed skip a step whose gradients are not finite, on all ranks; a loss that is not finite makes
    the gradients so. Each such step is logged, and its micro-batches are kept in `RUN_DIR/bad_batch` as
    `step=N_batch=B_rank=R.safetensors`, and as text in a `.txt` file. The run ends when several steps in a row are
    skipped. With precision 16, a gradient scaler skips steps to find its scale; only those whose loss is not finite
    count.

    A loss far above those of the 128 steps before is logged and kept as well, but the step is not skipped: this is the
    rule of OLMo-core's `SkipStepOptimizer` (mean + 6 standard deviations), used as a warning. Each rank compares its
    own losses.
    """

    def __init__(self, max_skipped: int = 3, spike_deviations: float = 6.0) -> None:
        """Creates the callback.

        Args:
            max_skipped: Number of steps skipped in a row that ends the run.
            spike_deviations: Number of standard deviations above the mean at which a loss is reported as a spike.

        Raises:
            ValueError: If one of them is not positive.
        """
        if max_skipped < 1 or not spike_deviations > 0:
            raise ValueError(
                f"NonFiniteGuard: max_skipped ({max_skipped}) must be at least 1 and "
                f"spike_deviations ({spike_deviations}) positive"
            )
        self.max_skipped, self.spike_deviations = max_skipped, spike_deviations
        self._in_a_row = self._global_step = self._num_skipped = 0
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._step = _Step()

    def state_dict(self) -> GuardState:  # type: ignore[override]
        """Returns the number of steps skipped in a row, and the losses before."""
        return {"in_a_row": self._in_a_row, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: GuardState) -> None:  # type: ignore[override]
        """Restores the state of the run that is resumed."""
        self._in_a_row = state_dict["in_a_row"]
        self._losses.extend(state_dict["losses"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts counting at the current step."""
        self._global_step, self._num_skipped = trainer.global_step, training_module(pl_module).num_skipped_steps
        self._step = _Step()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Keeps a reference to the batch until the step is done."""
        self._step.batches.append((batch_idx, batch))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keeps the loss; it is read when the step is done, so that nothing waits for the GPU."""
        self._step.losses.append(loss.detach())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Checks a step after its last micro-batch.

        Raises:
            DivergedError: If too many steps in a row were skipped; names the folder of their batches.
        """
        if trainer.global_step == self._global_step:
            return
        self._global_step = trainer.global_step
        step, self._step = self._step, _Step()
        losses = step.values()
        module = training_module(pl_module)
        before, self._num_skipped = self._num_skipped, module.num_skipped_steps
        skipped = self._num_skipped > before
        has_bad_loss = trainer.strategy.reduce_boolean_decision(not all(map(math.isfinite, losses)), all=False)
        scaled = str(trainer.precision).startswith("16")
        assert skipped or scaled or not has_bad_loss
        if has_bad_loss or (skipped and not scaled):
            self._in_a_row += 1
            self._report_skipped(trainer, module, step.batches, losses, has_bad_loss)
            self._check_diverged(trainer)
        elif not skipped:
            self._in_a_row = 0
            self._report_spike(trainer, module, step.batches, losses)

    def _report_skipped(
        self,
        trainer: Trainer,
        module: TrainingModule,
        batches: list[tuple[int, Batch]],
        losses: list[float],
        has_bad_loss: bool,
    ) -> None:
        for (number, batch), loss in zip(batches, losses, strict=True):
            if math.isfinite(loss) and has_bad_loss:
                continue  # another batch, perhaps on another rank, is the cause
            path = _keep(trainer, module, number, batch)
            why = "its gradients are not finite" if math.isfinite(loss) else "the loss is not finite"
            log.warning(
                "step %d was skipped and changed no weight (%d in a row, %d end the run): in batch %d of rank %d %s; "
                "it is kept in %s.safetensors and .txt",
                self._global_step, self._in_a_row, self.max_skipped, number, trainer.global_rank, why, path,
            )  # fmt: skip

    def _check_diverged(self, trainer: Trainer) -> None:
        if self._in_a_row >= self.max_skipped:
            raise DivergedError(
                f"{self._in_a_row} steps in a row, up to step {self._global_step}, were skipped: their loss or "
                "gradients are not finite. They changed no weight; their batches are kept in "
                f"{RunFolder(trainer.default_root_dir).bad_batches}"
            )

    def _report_spike(
        self, trainer: Trainer, module: TrainingModule, batches: list[tuple[int, Batch]], losses: list[float]
    ) -> None:
        loss, before = sum(losses), list(self._losses)
        self._losses.append(loss)
        if len(before) < _MIN_STEPS:
            return
        mean, deviation = statistics.fmean(before), statistics.pstdev(before)
        if loss > mean + self.spike_deviations * deviation:
            number, batch = batches[losses.index(max(losses))]
            path = _keep(trainer, module, number, batch)
            log.warning(
                "loss spike: step %d has %.4g on rank %d (%.4g ± %.2g in the %d steps before), most of it in batch %d; "
                "it is kept in %s.safetensors and .txt",
                self._global_step, loss, trainer.global_rank, mean, deviation, len(before), number, path,
            )  # fmt: skip


def _keep(trainer: Trainer, module: TrainingModule, number: int, batch: Batch) -> Path:
    """Writes a batch and its texts, and returns their path without the suffix."""
    folder = RunFolder(trainer.default_root_dir).bad_batches
    path = folder / f"step={trainer.global_step}_batch={number}_rank={trainer.global_rank}"
    folder.mkdir(parents=True, exist_ok=True)
    # cloned: safetensors refuses tensors that share memory
    tensors = {k: v.cpu().clone().contiguous() for k, v in batch.items() if isinstance(v, Tensor)}
    save_file(tensors, f"{path}.safetensors")
    tokenizer = module.tokenizer
    rows = [[i for i in row if 0 <= i < len(tokenizer)] for row in tensors["input_ids"].tolist()]
    texts = [f"# row {number}\n{tokenizer.decode(row)}\n" for number, row in enumerate(rows)]
    Path(f"{path}.txt").write_text("\n".join(texts), encoding="utf-8")
    return path
