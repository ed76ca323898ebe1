"""Speed and memory of a run.

Lightning's ThroughputMonitor waits for the GPU after each micro-batch, assumes that all batches have the same size,
knows neither padding nor target tokens, and its peak of an H200 (2.0e15) is that of sparse matrices.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX, Batch, indices_in_documents
from glmja.modeling.contracts import TrainingModule, teacher_flops, training_module
from glmja.modeling.flops import training_flops_per_token
from glmja.modeling.gpus import known_gpu
from glmja.runs.manifest import LightningState


@dataclass(frozen=True)
class _Counts:
    """Token counts of an interval; see `count_tokens`."""

    computed: int
    tokens: int
    targets: int
    attended: int
    teacher_flops: int


class Throughput(Callback):
    """Logs speed, memory and padding every `trainer.log_every_n_steps` optimizer steps.

    - `speed/tokens_per_s`, `speed/target_tokens_per_s`: of all devices, without padding.
    - `speed/mfu`: model FLOPs utilization, from 0 to 1: operations that the tokens need (`glmja.modeling.flops`; with
      attention within documents, and with those of a teacher) divided by what the devices could do in 16 bits. Only if
      their peak is known.
    - `speed/memory_gb`: peak of the memory of tensors on the first GPU, in 10⁹ bytes; without a GPU, peak of the memory
      of the first process.
    - `data/fill`: share of the computed tokens that are not padding.
    - `data/target_share`: share of these that are target tokens.

    The time of an interval is the time from batch to batch, including waiting for data. Validation, saving and sampling
    are left out, with everything that follows them until the next batch.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        """Creates the callback.

        Args:
            peak_tflops: Peak of a device in 10¹² operations per second, for `speed/mfu`; looked up for common GPUs by
                default.

        Raises:
            ValueError: If the peak is not positive.
        """
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"peak_tflops ({peak_tflops}) must be positive")
        self.peak_tflops = peak_tflops
        self._logged_step = 0
        self._counts: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts counting at the current step."""
        self._logged_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Starts the clock at the first batch, and after what is left out."""
        training_module(pl_module).clock.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        training_module(pl_module).clock.stop()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState) -> None:
        """Stops the clock."""
        training_module(pl_module).clock.stop()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the batch, and logs at the end of an interval."""
        module = training_module(pl_module)
        module.clock.start()  # another callback may just have stopped it
        counts = F.pad(count_tokens(batch), (0, 1), value=teacher_flops(module, batch))
        self._counts = counts if self._counts is None else self._counts + counts
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        if not every or step % every or step == self._logged_step:
            return
        module.clock.stop()
        totals = trainer.strategy.reduce(self._counts, reduce_op="sum").tolist()
        if trainer.is_global_zero:
            metrics = self._metrics(trainer, module, _Counts(*totals))
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
        self._counts, self._logged_step = None, step
        module.clock.reset()
        module.clock.start()

    def _metrics(self, trainer: Trainer, module: TrainingModule, counts: _Counts) -> dict[str, float]:
        device, seconds = trainer.strategy.root_device, module.clock.seconds
        metrics = {
            "speed/tokens_per_s": counts.tokens / seconds,
            "speed/target_tokens_per_s": counts.targets / seconds,
            "speed/memory_gb": peak_memory(device) / 1e9,
            "data/fill": counts.tokens / counts.computed,
            "data/target_share": counts.targets / counts.tokens,
        }
        peak = self.peak_tflops or known_peak_tflops(device)
        if peak is not None:
            flops = training_flops_per_token(module.model, counts.attended / counts.tokens) * counts.tokens
            flops += counts.teacher_flops
            metrics["speed/mfu"] = flops / seconds / trainer.world_size / (peak * 1e12)
        return metrics


def count_tokens(batch: Batch) -> Tensor:
    """Counts the tokens of a batch on its device, so that nothing waits for the GPU.

    Returns:
        (4,) int64: tokens computed; tokens without padding; target tokens; and Σ len² over documents, which divided by
        the tokens is the row length that attention sees.
    """
    index_BT = indices_in_documents(batch["position_ids"])
    num_rows, row_len = index_BT.shape
    lengths_B = batch.get("lengths", torch.full((num_rows,), row_len, device=index_BT.device))
    is_text_BT = torch.arange(row_len, device=index_BT.device) < lengths_B[:, None]
    targets = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()  # nothing predicts the first token of a row
    attended = ((2 * index_BT + 1) * is_text_BT).sum()  # 1 + 3 + 5 + … up to a length is its square
    return torch.stack([torch.tensor(is_text_BT.numel(), device=targets.device), is_text_BT.sum(), targets, attended])


def known_peak_tflops(device: torch.device) -> float | None:
    """Returns the peak of a common GPU; None for other devices."""
    gpu = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return gpu.tflops if gpu else None


def peak_memory(device: torch.device) -> float:
    """Returns the peak in bytes of the memory of tensors on a GPU, or of this process without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
