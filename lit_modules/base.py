"""What every training of a GLM has in common: the model, what of it trains, its loss, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from glmja.modeling.adapters import Embeddings, Lora, Tuning, apply_tuning, check_tuning, unwrap_peft
from glmja.modeling.batch import Batch
from glmja.modeling.loading import load_model, outline
from glmja.modeling.loss import next_token_loss
from glmja.modeling.model_folder import check_folder, glm_config
from glmja.runs import manifest
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.options import DtypeName
from lit_modules.schedules import WarmupCosine
from lit_modules.validation import ValidationMetrics

ScheduleCallable = Callable[[Optimizer, int], LRScheduler]


class GLMModule(LightningModule):
    """A GLM of which a part trains.

    The weights are loaded in `configure_model`, in each process; checkpoints hold what trains. The loss of an optimizer
    step is the mean over the tokens that it learns, on all ranks and over all micro-batches, however they are spread.
    """

    def __init__(
        self,
        model_dir: str,
        tuning: Tuning = "lora",
        embeddings: Embeddings = "full",
        lora: Lora = Lora(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: ScheduleCallable = WarmupCosine,
        dtype: DtypeName | None = None,
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
        compile_layers: bool = False,
        loss_chunk_len: int = 256,
    ) -> None:
        """Checks that model and tokenizer belong together; no weight is loaded.

        Args:
            model_dir: Folder of weights and tokenizer, as `python -m glmja.resize_embeddings` writes it.
            tuning: How the transformer trains: by low-rank adapters (`lora`), in `full`, or `frozen`.
            embeddings: How the input and output embeddings train: in `full`, only the `new_rows` of appended pieces,
                or `frozen`.
            lora: The adapters.
            optimizer: Optimizer over the parameters that train.
            lr_scheduler: Schedule over optimizer steps; called with the optimizer and the steps of the run.
            dtype: Of the weights that do not train (those that do are fp32); as stored by default.
            attn_implementation: `sdpa`, `eager`, `flex_attention`, or another that transformers knows for Glm.
            gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
            compile_layers: Compile each transformer layer with torch.compile: faster steps after minutes of waiting.
            loss_chunk_len: Positions whose logits are held at a time by the loss; 2048 to 4096 on a large GPU.

        Raises:
            OSError: If the folder has no config or tokenizer.
            ValueError: If an argument is out of its range, or tokenizer and model do not belong together.
        """
        super().__init__()
        if loss_chunk_len < 1:
            raise ValueError(f"loss_chunk_len ({loss_chunk_len}) must be at least 1")
        self.tokenizer = check_folder(model_dir)
        check_tuning(tuning, embeddings, self.tokenizer.new_ids)
        self.max_positions = int(glm_config(model_dir)["max_position_embeddings"])
        self.model_dir, self.tuning, self.embeddings, self.lora = model_dir, tuning, embeddings, lora
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.dtype_name, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing, self.compile_layers = gradient_checkpointing, compile_layers
        self.loss_chunk_len = loss_chunk_len
        self.strict_loading = False  # frozen weights are not in the checkpoint; on_load_checkpoint checks the rest
        self.model: Any = None
        self.train_loss = MeanMetric(nan_strategy="disable")  # what is not a number shows
        self._grad_norm: Tensor | float | None = None
        self._last_step = self._num_skipped = 0

    def configure_model(self) -> None:
        """Loads the weights and decides what trains; does nothing the second time.

        Raises:
            ValueError: If the weights are damaged, or 16-bit weights would meet fp32 ones.
        """
        if self.model is not None:
            return
        model = load_model(self.model_dir, self._stored_dtype, self.attn_implementation)
        if model.dtype != torch.float32 and self.trainer.precision == "32-true":
            raise ValueError(
                f"the weights are {model.dtype}, what trains is fp32, and `precision` is 32-true: set "
                "`precision` to bf16-mixed, or `dtype` to float32"
            )
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = apply_tuning(model, self.tuning, self.embeddings, self.lora, self.tokenizer.new_ids)
        if self.compile_layers:
            for layer in model.model.layers:
                layer.compile()
        self.model.train()

    def outline(self) -> Any:
        """The model as it will train, by shapes and dtypes alone; raises as `configure_model`."""
        model = outline(self.model_dir, self._stored_dtype)
        return apply_tuning(model, self.tuning, self.embeddings, self.lora, self.tokenizer.new_ids)

    def try_optimizer(self) -> Optimizer:
        """The optimizer over a few numbers, after a step.

        Raises:
            ValueError: If an argument is out of its range.
        """
        parameter = nn.Parameter(torch.zeros(1024))
        parameter.grad = torch.zeros_like(parameter)
        try:
            optimizer = self.optimizer([parameter])
        except ValueError as error:
            raise ValueError(f"model.init_args.optimizer: {error}; correct the value") from error
        optimizer.step()
        return optimizer

    @property
    def _stored_dtype(self) -> torch.dtype | None:
        return getattr(torch, self.dtype_name) if self.dtype_name else None

    def setup(self, stage: str) -> None:
        """Makes the metrics of the sources that the data module validates on.

        Raises:
            ValueError: If precision, clipping or schedule cannot be meant so, or the run is to be resumed from a
                checkpoint of other data.
        """
        if str(self.trainer.precision).endswith("16-true") and not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                f"`precision` {self.trainer.precision} would train in 16 bits, in which most steps of an "
                f"optimizer are lost; set it to {str(self.trainer.precision).replace('true', 'mixed')}"
            )
        if self.trainer.ckpt_path is not None:
            self.check_resumable(manifest.read(self.trainer.ckpt_path, verify=False).facts, self.trainer.ckpt_path)
        clip = self.trainer.gradient_clip_val or 0
        if clip < 0:
            raise ValueError(f"trainer.gradient_clip_val ({clip}) must not be negative: steps would go uphill")
        # tried on a number, before the weights are loaded
        self.lr_scheduler(self.try_optimizer(), self.trainer.datamodule.num_steps)  # type: ignore[attr-defined]
        sources = self.trainer.datamodule.validation_sources  # type: ignore[attr-defined]
        self.validation = ValidationMetrics(sources, self.tokenizer.num_characters)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss in nats, and the learnt labels, (N,)."""
        glm = unwrap_peft(self.model)
        hidden = glm.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).last_hidden_state
        return next_token_loss(hidden, glm.lm_head.weight, batch["labels"], self.loss_chunk_len)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """This micro-batch's part in the mean loss of the optimizer step; NaN if it is infinite."""
        total, labels_N = self.loss(batch)
        num_target_tokens = labels_N.numel()
        if num_target_tokens:
            self.train_loss.update(total.detach() / num_target_tokens, weight=num_target_tokens)
        loss = total / batch["mean_target_tokens"].clamp(min=1)
        # an infinite loss may have finite gradients; NaN reaches all of them, on all ranks, and the step is skipped
        return loss * torch.where(loss.isfinite(), 1.0, torch.nan)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as Lightning does, keeps the norm for the log, and skips a step whose gradients are not finite.

        DeepSpeed does all three by itself, and a gradient scaler the last.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        by_value = gradient_clip_algorithm == "value"
        if not by_value and scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"a fused {type(optimizer).__name__} under precision {self.trainer.precision} would be given gradients "
                "that are clipped while they are scaled; set `fused` to false"
            )
        parameters = [p for p in self.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._grad_norm = norm
        if scaler is None and not torch.isfinite(norm):
            optimizer.zero_grad()  # parameters without a gradient are passed over, and so is their state
            self._num_skipped += 1
        elif by_value:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_grads_with_norm_(parameters, float(gradient_clip_val), norm)

    @property
    def num_skipped_steps(self) -> int:
        """Optimizer steps that changed no weight because a gradient was not finite; a scaler's are not counted."""
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            return int(self.trainer.strategy.model.skipped_steps)  # type: ignore[union-attr,arg-type]
        return self._num_skipped

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Steps as Lightning does, and frees the gradients, which it keeps through the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs `train/loss` (nats, mean over the step's learnt tokens) and `train/grad_norm` (before clipping)."""
        if self.trainer.global_step == self._last_step:
            return
        self._last_step = self.trainer.global_step
        self.log("train/loss", self.train_loss.compute(), prog_bar=True)
        self.train_loss.reset()
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self._grad_norm = self.trainer.strategy.model.get_global_grad_norm()  # type: ignore[union-attr,operator]
        if self._grad_norm is not None:
            self.log("train/grad_norm", self._grad_norm)

    def on_train_start(self) -> None:
        """Counts steps from where the run stands."""
        self._last_step = self.trainer.global_step

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch of one source to its metrics; all are means over tokens or characters, not over batches."""
        total, labels_N = self.loss(batch)
        self.validation.update(dataloader_idx, total, labels_N)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/SOURCE/loss` and `val/LANG/bits_per_char`."""
        # the metrics are over all ranks already; without sync_dist Lightning warns that they were not
        self.log_dict(self.validation.compute(), sync_dist=True)
        self.validation.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Over what trains, with the schedule stepped after each optimizer step."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        # not trainer.estimated_stepping_batches: it makes a resumed run start over
        scheduler = self.lr_scheduler(optimizer, self.trainer.datamodule.num_steps)  # type: ignore[attr-defined]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint of this run depends on, as JSON.

        `data` is there once the run is planned, and `trainable` once the weights are loaded.
        """
        facts: dict[str, Any] = {
            "strategy": type(self.trainer.strategy).__name__,
            "world_size": self.trainer.world_size,
            "precision": str(self.trainer.precision),
            "tokenizer": self.tokenizer.fingerprint,
            "base": self._base,
            "tuning": self.tuning,
            "embeddings": self.embeddings,
            "lora": asdict(self.lora) if self.tuning == "lora" else None,
        }
        if hasattr(self.trainer, "datamodule") and hasattr(self.trainer.datamodule, "fingerprint"):
            facts["data"] = self.trainer.datamodule.fingerprint
        if self.model is not None:
            # in order: DeepSpeed restores flat parameters by position, whatever their names are
            facts["trainable"] = [[n, list(p.shape)] for n, p in self.named_parameters() if p.requires_grad]
        return facts

    @cached_property
    def _base(self) -> str:
        return Checkpoint.open(self.model_dir).fingerprint()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what trains, and notes what it depends on."""
        facts = self.facts()
        trainable = {name for name, _ in facts["trainable"]}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint.get("state_dict", {}).items() if k in trainable}
        checkpoint[manifest.FACTS] = facts

    def check_resumable(self, saved: dict[str, Any], path: str | Path) -> None:
        """Checks that the facts of a checkpoint are those of this run, as far as they are known by now.

        Raises:
            ValueError: If not; names the first difference.
        """
        now = self.facts()
        manifest.check_facts({name: value for name, value in saved.items() if name in now}, now, path)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint trains what this run does; raises as `check_resumable`."""
        self.check_resumable(checkpoint[manifest.FACTS], "the checkpoint")


class PackedPretraining(GLMModule):
    """Learns every token of packed rows; validates in bits per character, which tokenizers can be compared by."""


class PaddedSFT(GLMModule):
    """Learns what the assistant says, in padded or packed rows; validates on the answers of held-out conversations."""
