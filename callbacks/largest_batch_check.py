"""Memory that does not suffice ends a run in its first minute."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_info
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.throughput import peak_memory
from glmja.errors import LESS_MEMORY, MachineError, is_out_of_memory


class LargestBatchCheck(Callback):
    """Computes the loss and the gradients of a rank's largest micro-batch before the first step, and forgets them.

    Batches of conversations differ in size: the one that needs the most memory may come after days. Weights, random
    states and what is learnt stay as they are. By default on GPUs only: a processor's memory is no hard limit, and a
    step of it is slow.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        """Waits for the start.

        Args:
            on_cpu: Rehearse without a GPU, too.
        """
        self.on_cpu = on_cpu

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rehearses.

        Raises:
            MachineError: If the memory does not suffice.
        """
        device = trainer.strategy.root_device
        if device.type != "cuda" and not self.on_cpu:
            return
        loader: Any = trainer.train_dataloader
        batch = loader.batches.largest()
        num_rows, width = batch["input_ids"].shape
        what = f"the largest micro-batch, {num_rows} × {width} tokens,"
        try:
            with isolate_rng():
                _rehearse(trainer, pl_module, trainer.strategy.batch_to_device(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MachineError(f"{what} does not fit into the memory of {device}; lower {LESS_MEMORY}") from error
        rank_zero_info(f"rehearsed {what} at a peak of {peak_memory(device) / 1e9:.1f} GB")


def _rehearse(trainer: Trainer, module: Any, batch: Any) -> None:
    parameters = [p for p in module.parameters() if p.requires_grad]
    # what is there while a later micro-batch is computed: AdamW's state, and the gradients of those before it
    later = 0 if trainer.optimizers[0].state else 2
    if trainer.accumulate_grad_batches > 1 and not isinstance(trainer.strategy, DeepSpeedStrategy):
        later += 1
    held = [torch.empty_like(p) for p in parameters for _ in range(later)]
    with trainer.precision_plugin.train_step_context():
        loss, _ = module.loss(batch)
    # not backward(): the hooks of DDP and DeepSpeed would take the gradients for those of a step
    torch.autograd.grad(loss, parameters, allow_unused=True)
    del held
