"""Detects in the first minute of a run that its memory does not suffice."""

from __future__ import annotations

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.throughput import peak_memory
from glmja.errors import LESS_MEMORY, MachineError, is_out_of_memory
from glmja.modeling.batch import Batch
from glmja.modeling.contracts import TrainingLoader, training_module


class LargestBatchCheck(Callback):
    """Runs the largest micro-batch of a rank forward and backward before the first step, and discards the gradients.

    Batches of conversations differ in size: the one that needs the most memory may come after days. Weights, random
    states and metrics are not changed. By default, this is done on GPUs only: the memory of a CPU is no hard limit, and
    a step on it is slow.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        """Creates the callback.

        Args:
            on_cpu: Whether to run the batch on a CPU as well.
        """
        self.on_cpu = on_cpu

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs the batch.

        Raises:
            MachineError: If memory runs out.
        """
        device, loader = trainer.strategy.root_device, trainer.train_dataloader
        if (device.type != "cuda" and not self.on_cpu) or not isinstance(loader, TrainingLoader):
            return
        batch = loader.largest()
        num_rows, width = batch["input_ids"].shape
        what = f"the largest micro-batch, {num_rows} × {width} tokens,"
        try:
            with isolate_rng():
                _run(trainer, pl_module, trainer.strategy.batch_to_device(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MachineError(f"{what} does not fit into the memory of {device}; lower {LESS_MEMORY}") from error
        rank_zero_info(f"tried {what} at a memory peak of {peak_memory(device) / 1e9:.1f} GB")


def _run(trainer: Trainer, module: LightningModule, batch: Batch) -> None:
    parameters = [p for p in module.parameters() if p.requires_grad]
    # what later micro-batches find in memory: the state of AdamW, and the gradients of the micro-batches before them
    later = 0 if trainer.optimizers[0].state else 2
    if trainer.accumulate_grad_batches > 1 and not trainer.strategy.handles_gradient_accumulation:
        later += 1
    held = [torch.empty_like(p) for p in parameters for _ in range(later)]
    with trainer.precision_plugin.train_step_context():
        loss, _ = training_module(module).loss(batch)
    # not backward(): the hooks of DDP and DeepSpeed would take the gradients for those of a step
    torch.autograd.grad(loss, parameters, allow_unused=True)
    del held
