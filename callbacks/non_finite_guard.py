"""A step whose loss or gradients are not finite changes no weight, and is told with its batches."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from glmja.errors import DivergedError
from glmja.modeling.batch import Batch

_WINDOW, _FEWEST = 128, 32  # steps that a loss is compared with, and how many of them tell how losses vary

log = logging.getLogger(__name__)


class NonFiniteGuard(Callback):
    """Tells of steps that were skipped and of losses that leap, keeps their batches, and ends a run that diverged.

    `GLMModule` and DeepSpeed skip a step whose gradients are not finite, on all ranks; a loss that is not finite makes
    them so. Each such step is logged, with its micro-batches in `RUN_DIR/bad_batch`, as `step=N_batch=B_rank=R`
    `.safetensors` and their texts as `.txt`. The run ends when several follow on each other. With precision 16, a
    scaler skips steps to find its scale; only those whose loss is not finite count.

    A loss that stands out from the 128 steps before is logged and kept, too, but nothing is skipped for it: the rule of
    OLMo-core's `SkipStepOptimizer` (mean + 6 standard deviations), as a warning. A rank compares its own losses.
    """

    def __init__(self, max_skipped: int = 3, spike_deviations: float = 6.0) -> None:
        """Starts with no step.

        Args:
            max_skipped: Steps skipped in a row that end the run.
            spike_deviations: Standard deviations above the mean at which a loss stands out.

        Raises:
            ValueError: If either is not positive.
        """
        if max_skipped < 1 or not spike_deviations > 0:
            raise ValueError(
                f"NonFiniteGuard: max_skipped ({max_skipped}) must be at least 1 and "
                f"spike_deviations ({spike_deviations}) positive"
            )
        self.max_skipped, self.spike_deviations = max_skipped, spike_deviations
        self._in_a_row = self._step = self._num_skipped = 0
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._batches: list[tuple[int, Batch]] = []  # the micro-batches of this step, and their losses
        self._losses_of_step: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run compares with."""
        return {"in_a_row": self._in_a_row, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._in_a_row = state_dict["in_a_row"]
        self._losses.extend(state_dict["losses"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from where the run stands."""
        self._step, self._num_skipped = trainer.global_step, _num_skipped(pl_module)
        self._batches, self._losses_of_step = [], []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Remembers the batch, in case."""
        self._batches.append((batch_idx, batch))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remembers the loss; it is looked at when the step is done, so that nothing waits for it."""
        self._losses_of_step.append(loss.detach())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Looks at the step when its last micro-batch is done.

        Raises:
            DivergedError: If it is one skipped step too many; names the folder of its batches.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        # Lightning has divided them by the micro-batches of a step
        losses, batches = torch.stack(self._losses_of_step).tolist(), self._batches
        self._losses_of_step, self._batches = [], []
        before, self._num_skipped = self._num_skipped, _num_skipped(pl_module)
        skipped = self._num_skipped > before
        has_bad_loss = trainer.strategy.reduce_boolean_decision(not all(map(math.isfinite, losses)), all=False)
        scaled = str(trainer.precision).startswith("16")
        assert skipped or scaled or not has_bad_loss
        if has_bad_loss or (skipped and not scaled):
            self._tell_skipped(trainer, pl_module, batches, losses, has_bad_loss)
        elif not skipped:
            self._in_a_row = 0
            self._tell_spike(trainer, pl_module, batches, losses)

    def _tell_skipped(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batches: list[tuple[int, Batch]],
        losses: list[float],
        has_bad_loss: bool,
    ) -> None:
        self._in_a_row += 1
        folder = Path(trainer.default_root_dir) / "bad_batch"
        for (number, batch), loss in zip(batches, losses, strict=True):
            if math.isfinite(loss) and has_bad_loss:
                continue  # another batch, perhaps another rank's, is the cause
            path = _keep(folder, trainer, number, batch, pl_module.tokenizer)
            why = "its gradients are not finite" if math.isfinite(loss) else "the loss is not finite"
            log.warning(
                "step %d was skipped and changed no weight (%d in a row, %d end the run): in batch %d of rank %d %s; "
                "it is kept in %s.safetensors and .txt",
                self._step, self._in_a_row, self.max_skipped, number, trainer.global_rank, why, path,
            )  # fmt: skip
        if self._in_a_row >= self.max_skipped:
            raise DivergedError(
                f"{self._in_a_row} steps in a row, up to step {self._step}, were skipped: their loss or gradients are "
                f"not finite. No weight was changed by them; their batches are kept in {folder}"
            )

    def _tell_spike(
        self, trainer: Trainer, pl_module: LightningModule, batches: list[tuple[int, Batch]], losses: list[float]
    ) -> None:
        loss, before = sum(losses), list(self._losses)
        self._losses.append(loss)
        if len(before) < _FEWEST:
            return
        mean, deviation = statistics.fmean(before), statistics.pstdev(before)
        if loss > mean + self.spike_deviations * deviation:
            number, batch = batches[losses.index(max(losses))]
            path = _keep(Path(trainer.default_root_dir) / "bad_batch", trainer, number, batch, pl_module.tokenizer)
            log.warning(
                "the loss of step %d leapt to %.4g on rank %d (%.4g ± %.2g in the %d steps before), most in batch %d; "
                "it is kept in %s.safetensors and .txt",
                self._step, loss, trainer.global_rank, mean, deviation, len(before), number, path,
            )  # fmt: skip


def _num_skipped(module: Any) -> int:
    return module.num_skipped_steps


def _keep(folder: Path, trainer: Trainer, number: int, batch: Batch, tokenizer: Any) -> Path:
    """Writes a batch and its texts; their path without the suffix."""
    path = folder / f"step={trainer.global_step}_batch={number}_rank={trainer.global_rank}"
    folder.mkdir(parents=True, exist_ok=True)
    # cloned: safetensors refuses tensors that share memory
    tensors = {k: v.cpu().clone().contiguous() for k, v in batch.items() if isinstance(v, Tensor)}
    save_file(tensors, f"{path}.safetensors")
    rows = [[i for i in row if 0 <= i < len(tokenizer)] for row in tensors["input_ids"].tolist()]
    texts = [f"# row {number}\n{tokenizer.decode(row)}\n" for number, row in enumerate(rows)]
    Path(f"{path}.txt").write_text("\n".join(texts), encoding="utf-8")
    return path
