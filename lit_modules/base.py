"""What every training of a GLM has in common: the model, what of it trains, and how it is optimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from glmja.batch import Batch
from glmja.checkpoint import DtypeName
from glmja.loss import next_token_loss
from glmja.model import load_model
from glmja.model_folder import check_folder
from glmja.trainable import Embeddings, add_lora, train_embeddings
from lit_modules.schedules import WarmupCosine

ScheduleCallable = Callable[[Optimizer, int], LRScheduler]


class GLMModule(LightningModule):
    """A GLM with low-rank adapters and, if wanted, its whole embeddings training.

    The weights are loaded in `configure_model`, in each process; checkpoints hold what trains.
    """

    def __init__(
        self,
        model_dir: str,
        lora_rank: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.0,
        lora_targets: list[str] | None = None,
        embeddings: Embeddings = "full",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: ScheduleCallable = WarmupCosine,
        dtype: DtypeName | None = None,
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        """Checks that model and tokenizer belong together; no weight is loaded.

        Args:
            model_dir: Folder of weights and tokenizer, as `python -m glmja.resize_embeddings` writes it.
            lora_rank: Rank of the adapters.
            lora_alpha: The adapters' update is scaled by `lora_alpha / lora_rank`.
            lora_dropout: Probability of dropping an input of an adapter.
            lora_targets: Names of the linear layers with adapters; all of the transformer's by default.
            embeddings: Whether the input and output embeddings train: `full` or `frozen`.
            optimizer: Optimizer over the parameters that train.
            lr_scheduler: Schedule over optimizer steps; called with the optimizer and the steps of the run.
            dtype: Of the weights; as stored by default.
            attn_implementation: `sdpa`, `eager`, or another that transformers knows for Glm.
            gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.

        Raises:
            OSError: If the folder has no config or tokenizer.
            ValueError: If an argument is out of its range, or tokenizer and model do not belong together.
        """
        super().__init__()
        if lora_rank < 1 or not 0 <= lora_dropout < 1:
            raise ValueError(f"lora_rank ({lora_rank}) must be at least 1 and lora_dropout ({lora_dropout}) in [0, 1)")
        self.tokenizer = check_folder(model_dir)
        self.model_dir = model_dir
        self.lora_rank, self.lora_alpha, self.lora_dropout = lora_rank, lora_alpha, lora_dropout
        self.lora_targets, self.embeddings = lora_targets, embeddings
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.dtype_name, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.strict_loading = False  # frozen weights are not in the checkpoint; on_load_checkpoint checks the rest
        self.model: Any = None

    def configure_model(self) -> None:
        """Loads the weights and decides what trains; does nothing the second time."""
        if self.model is not None:
            return
        dtype = getattr(torch, self.dtype_name) if self.dtype_name else None
        model = load_model(self.model_dir, dtype, self.attn_implementation)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        self.model = add_lora(model, self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_targets)
        train_embeddings(self.model, self.embeddings)
        self.model.train()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss in nats, and the learnt labels, (N,)."""
        glm = self.model.get_base_model()
        hidden = glm.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).last_hidden_state
        return next_token_loss(hidden, glm.lm_head.weight, batch["labels"])

    def trainable_names(self) -> list[str]:
        """Names of the parameters that train, in the order of the module."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Over what trains, with the schedule stepped after each optimizer step."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        scheduler = self.lr_scheduler(optimizer, self._num_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _num_steps(self) -> int:
        """Optimizer steps of the run.

        Not `trainer.estimated_stepping_batches`: with finite `max_epochs` it makes a resumed run start over.
        """
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        if not self.trainer.max_epochs or self.trainer.max_epochs < 0:
            raise ValueError("give --trainer.max_steps or --trainer.max_epochs: the schedule needs the run's length")
        num_batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        steps = -(-num_batches // (self.trainer.accumulate_grad_batches * self.trainer.world_size))
        return steps * self.trainer.max_epochs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what trains."""
        trainable = set(self.trainable_names())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trainable}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint holds exactly what trains.

        Raises:
            ValueError: If not; names the first parameters.
        """
        if "state_dict" not in checkpoint:
            return
        differing = set(self.trainable_names()) ^ set(checkpoint["state_dict"])
        if differing:
            raise ValueError(
                f"the checkpoint trains other parameters than this run ({len(differing)} differ: "
                f"{', '.join(sorted(differing)[:3])}); are lora and embeddings set as they were?"
            )
