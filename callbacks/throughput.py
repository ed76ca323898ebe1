"""How fast a run learns.

Lightning's ThroughputMonitor waits for the GPU after each micro-batch, takes all batches to be of one size, knows
neither padding nor which tokens are learnt, and its peak of an H200 (2.0e15) is that of sparse matrices.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX, Batch
from glmja.modeling.flops import training_flops_per_token

# Dense bf16 TFLOP/s in NVIDIA's data sheets, by a part of the device's name; the first that fits.
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}


class Throughput(Callback):
    """Logs speed, memory, and how much of what is computed is text, every `trainer.log_every_n_steps` optimizer steps.

    - `speed/tokens_per_s`, `speed/learnt_tokens_per_s`: of all devices, padding left out.
    - `speed/mfu`: model FLOPs utilisation, from 0 to 1: operations that the tokens need (`glmja.modeling.flops`;
      attention within documents) over what the devices could do in 16 bits. Only if their peak is known.
    - `speed/memory_gb`: 10⁹ bytes, the most so far that tensors took on the first GPU; without one, that the first
      process took.
    - `data/fill`: tokens that are not padding, of those computed. `data/learnt_share`: tokens learnt, of those not
      padding.

    The time of an interval is what passes from batch to batch, waiting for data included. Validation, the saving of
    checkpoints and sampling are left out, as is all that follows them until the next batch.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        """Starts with a stopped clock.

        Args:
            peak_tflops: 10¹² operations per second that a device can do at most, for `speed/mfu`; looked up for common
                GPUs by default.

        Raises:
            ValueError: If the peak is not positive.
        """
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"peak_tflops ({peak_tflops}) must be positive")
        self.peak_tflops = peak_tflops
        self._elapsed, self._logged_step = 0.0, 0
        self._running_since: float | None = None
        self._counts: Tensor | None = None

    def start(self) -> None:
        """Lets the clock run, if it does not."""
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def stop(self) -> None:
        """Stops the clock after the work that is under way."""
        if self._running_since is not None:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self._elapsed += time.perf_counter() - self._running_since
            self._running_since = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts steps from where the run stands."""
        self._logged_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Starts the clock at the first batch, and after what is left out."""
        self.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves validation out."""
        self.stop()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leaves saving out."""
        self.stop()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the batch; logs when as many optimizer steps are done."""
        self.start()  # another callback may have stopped it just now
        counts = count_tokens(batch)
        self._counts = counts if self._counts is None else self._counts + counts
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        if not every or step % every or step == self._logged_step:
            return
        self.stop()
        totals = trainer.strategy.reduce(self._counts, reduce_op="sum").tolist()
        if trainer.is_global_zero:
            metrics = self._metrics(trainer, pl_module, *totals)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
        self._elapsed, self._counts, self._logged_step = 0.0, None, step
        self.start()

    def _metrics(
        self, trainer: Trainer, pl_module: LightningModule, computed: int, tokens: int, learnt: int, attended: int
    ) -> dict[str, float]:
        device = trainer.strategy.root_device
        metrics = {
            "speed/tokens_per_s": tokens / self._elapsed,
            "speed/learnt_tokens_per_s": learnt / self._elapsed,
            "speed/memory_gb": peak_memory(device) / 1e9,
            "data/fill": tokens / computed,
            "data/learnt_share": learnt / tokens,
        }
        peak = self.peak_tflops or known_peak_tflops(device)
        if peak is not None:
            model: Any = pl_module.model
            flops = training_flops_per_token(model, attended / tokens) * tokens
            metrics["speed/mfu"] = flops / self._elapsed / trainer.world_size / (peak * 1e12)
        return metrics


def count_tokens(batch: Batch) -> Tensor:
    """Counts of a batch, on its device, so that nothing waits for it.

    Returns:
        (4,) int64: tokens computed; those without padding; those learnt; and Σ len² over documents, which divided by
        the tokens is the row length that attention sees.
    """
    position_ids_BT = batch["position_ids"]
    num_rows, row_len = position_ids_BT.shape
    lengths_B = batch.get("lengths", torch.full((num_rows,), row_len, device=position_ids_BT.device))
    is_text_BT = torch.arange(row_len, device=position_ids_BT.device) < lengths_B[:, None]
    learnt = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()  # the first token of a row has none before it
    attended = ((2 * position_ids_BT + 1) * is_text_BT).sum()  # 1 + 3 + 5 + … up to a length is its square
    return torch.stack([torch.tensor(is_text_BT.numel(), device=learnt.device), is_text_BT.sum(), learnt, attended])


def known_peak_tflops(device: torch.device) -> float | None:
    """Of a common GPU; None for others and for CPUs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def peak_memory(device: torch.device) -> float:
    """Bytes: the most that tensors took on a GPU, or that this process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
