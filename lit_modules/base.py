"""Training of a GLM: the model, its trainable parameters, the loss, and the content of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from glmja.families.names import FamilyName
from glmja.modeling.adapters import Embeddings, Lora, Tuning, apply_tuning, check_tuning, unwrap_peft
from glmja.modeling.attention import AttentionName, check_attention, model_inputs
from glmja.modeling.batch import Batch
from glmja.modeling.contracts import TrainingModule
from glmja.modeling.loading import load_model, outline
from glmja.modeling.loss import TokenLosses, token_losses
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.retention import BaseRows
from glmja.modeling.training_clock import TrainingClock
from glmja.runs import manifest
from glmja.runs.contracts import ValidationSource, training_data
from glmja.runs.identity import RunIdentity
from glmja.runs.manifest import LightningState
from glmja.weights.dtypes import dtype_named
from glmja.weights.options import DtypeName
from lit_modules.callback_checks import check_monitors
from lit_modules.checkpoint_folder import check_resumed
from lit_modules.gradient_steps import GradientSteps
from lit_modules.identity import module_identity
from lit_modules.optimizers import try_optimizer
from lit_modules.origin import Origin
from lit_modules.resume_state import ResumeState
from lit_modules.schedules import ScheduleFactory, WarmupCosine, check_schedule, create_schedule
from lit_modules.step_losses import LossPart, StepLoss, StepLosses
from lit_modules.trainer_checks import Planned, check_dtype, check_trainer
from lit_modules.validation import ValidationMetrics


class GLMModule(LightningModule, TrainingModule):
    """Trains a part of a GLM.

    The weights are loaded in `configure_model`, in each process; checkpoints hold the trainable parameters. The loss of
    an optimizer step is the mean over its target tokens, on all ranks and in all micro-batches, however they are
    distributed.
    """

    objective: Mapping[str, Any] | None = None  # what is trained for besides cross entropy

    def __init__(
        self,
        model_dir: str,
        tuning: Tuning = "lora",
        embeddings: Embeddings = "full",
        lora: Lora = Lora(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: ScheduleFactory = WarmupCosine,  # type: ignore[assignment]  # it has one of the lengths
        dtype: DtypeName | None = None,
        attn_implementation: AttentionName = "documents",
        gradient_checkpointing: bool = False,
        compile_layers: bool = False,
        loss_chunk_len: int = 256,
        family: FamilyName | None = None,
    ) -> None:
        """Checks that model and tokenizer match; loads no weights.

        Args:
            model_dir: Folder of weights and tokenizer, as `python -m glmja.resize_embeddings` writes it.
            tuning: How to train the transformer: with low-rank adapters (`lora`), in `full`, or not at all (`frozen`).
            embeddings: How to train the input and output embeddings: in `full`, only the `new_rows` of the added
                tokens, or not at all (`frozen`).
            lora: Settings of the low-rank adapters.
            optimizer: Optimizer of the trainable parameters.
            lr_scheduler: Learning-rate schedule. Its parameter `num_steps`, `total_steps` or `T_max` is given the
                number of optimizer steps of the run.
            dtype: Data type of the frozen weights; the stored one by default. Trainable weights are fp32.
            attn_implementation: Attention. `documents` computes packed documents one by one; the others are those of
                transformers, of which `flash_attention_2` needs the package flash-attn.
            gradient_checkpointing: Whether to recompute activations in the backward pass. Takes less memory and about
                a third more time.
            compile_layers: Whether to compile each transformer layer with torch.compile. Steps are faster, after
                minutes of compilation.
            loss_chunk_len: Number of positions whose logits the loss holds at a time; 2048 to 4096 on a large GPU.
            family: Family of the model, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by its files
                by default.

        Raises:
            OSError: If the folder has no config or tokenizer.
            ValueError: If an argument is out of range, or tokenizer and model do not match.
        """
        super().__init__()
        if loss_chunk_len < 1:
            raise ValueError(f"`loss_chunk_len` ({loss_chunk_len}) must be at least 1")
        check_attention(attn_implementation)
        self.folder = ModelFolder.open(model_dir, family)
        self.tokenizer = self.folder.tokenizer
        check_tuning(tuning, embeddings, self.tokenizer.new_ids)
        self.tuning, self.embeddings, self.lora = tuning, embeddings, lora.of(self.folder.architecture.layers)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.frozen_dtype, self.loss_chunk_len = dtype_named(dtype) if dtype else None, loss_chunk_len
        self.gradient_checkpointing, self.compile_layers = gradient_checkpointing, compile_layers
        self.attn_implementation = self.folder.architecture.attention(attn_implementation)
        self.strict_loading = False  # frozen weights are not in the checkpoint; `configure_model` checks the others
        self.model: Any = None
        self.base_rows: BaseRows | None = None
        self.clock = TrainingClock()
        self.step_losses = StepLosses(["loss"])
        self.resume_state, self.origin = ResumeState(), Origin()
        self._steps = GradientSteps()
        self._last_step = 0
        self._planned: Planned | None = None

    def configure_model(self) -> None:
        """Loads the weights and selects the trainable parameters; does nothing if called again.

        Raises:
            ValueError: If the weights are damaged, 16-bit weights would be mixed with fp32 ones, or the checkpoint to
                resume from has other trainable parameters.
        """
        if self.model is not None:
            return
        model = load_model(self.folder, self.frozen_dtype, self.attn_implementation)
        check_dtype(self.trainer, model.dtype)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.base_rows = self.base_rows_of(model)
        self.model = self._tuned(model)
        if self.compile_layers:
            for layer in model.base_model.layers:
                layer.compile()
        self.model.train()
        check_resumed(self.trainer, self.resumable_identity(self.trainer))
        self.origin.load(self, self.identity(self.trainer))

    def outline(self) -> Any:
        """Returns the model and what else a run holds in memory, as shapes and dtypes without data."""
        model = outline(self.folder, self.frozen_dtype)
        rows = self.base_rows_of(model)
        return nn.ModuleList([self._tuned(model), *([] if rows is None else [rows])])

    def _tuned(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        return apply_tuning(model, self.tuning, self.embeddings, self.lora, self.tokenizer.new_ids)

    def base_rows_of(self, model: PreTrainedModel) -> BaseRows | None:
        """Returns the embedding rows of a model that the run needs as they were; None if it needs none."""
        return None

    def try_optimizer(self) -> Optimizer:
        """Returns an optimizer of small parameters after one step; see `lit_modules.optimizers.try_optimizer`."""
        return try_optimizer(self.optimizer, matrices_only=self.tuning != "full")

    def setup(self, stage: str) -> None:
        """Checks the settings and the checkpoint, and creates the metrics of the validation sources.

        Raises:
            ValueError: If a setting of the trainer, the optimizer or the schedule cannot work, or the checkpoint to
                resume from was saved by another run or with other data.
        """
        check_trainer(self.trainer)
        check_resumed(self.trainer, self.resumable_identity(self.trainer))
        data = training_data(self.trainer)
        check_schedule(self.lr_scheduler, self.try_optimizer, self._schedule_length)
        check_monitors(self.trainer, self.logged_names(data.validation_sources))
        self._planned = Planned.of(self.trainer, data.num_steps)
        self.validation = ValidationMetrics(data.validation_sources, self.tokenizer.num_characters)

    def hidden_states(self, batch: Batch) -> Tensor:
        """Returns the last hidden states, (B, T, D)."""
        glm = unwrap_peft(self.model)
        return glm.base_model(**model_inputs(batch, self.attn_implementation)).last_hidden_state

    def token_losses(self, hidden: Tensor, batch: Batch) -> TokenLosses:
        """Returns the cross entropies of a batch, given its hidden states, (B, T, D)."""
        head = unwrap_peft(self.model).get_output_embeddings().weight
        return token_losses(hidden, head, batch["labels"], self.loss_chunk_len)

    def step_loss(self, batch: Batch) -> StepLoss:
        """Returns the loss of a micro-batch that training minimizes: cross entropy of the next token."""
        losses = self.token_losses(self.hidden_states(batch), batch)
        part = LossPart("loss", losses.total.detach(), losses.targets_N.numel())
        return StepLoss(losses.total, losses.targets_N, [part])

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the summed loss in nats that training minimizes, and the target tokens, (N,)."""
        return self.step_loss(batch)[:2]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the contribution of a micro-batch to the mean loss of its optimizer step; NaN if it is infinite."""
        step_loss = self.step_loss(batch)
        self.step_losses.update(step_loss.parts)
        loss = step_loss.total / batch["mean_target_tokens"].clamp(min=1)
        # an infinite loss may have finite gradients; NaN reaches all of them, on all ranks, and the step is skipped
        return loss * torch.where(loss.isfinite(), 1.0, torch.nan)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients, and skips a step whose gradients are not finite; see `GradientSteps.clip`."""
        self._steps.clip(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    @property
    def num_skipped_steps(self) -> int:
        """Optimizer steps that changed no weight because a gradient was not finite; a scaler's are not counted."""
        return self._steps.num_skipped(self.trainer.strategy)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Steps as Lightning does, then frees the gradients, which Lightning keeps during the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def on_train_start(self) -> None:
        """Starts counting at the current optimizer step, and lets the schedule fit a run whose length has changed."""
        self._last_step = self.trainer.global_step
        if self._planned is not None:
            self.resume_state.start(self.trainer, self.lr_scheduler, self.try_optimizer(), self._planned.num_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Checks that nothing has changed the plan of the run."""
        if self._planned is not None:
            self._planned.check(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs `train/loss` (nats, mean over the step's target tokens) and `train/grad_norm` (before clipping)."""
        if self.trainer.global_step == self._last_step:
            return
        self._last_step = self.trainer.global_step
        for name, mean in self.step_losses.compute().items():
            self.log(f"train/{name}", mean, prog_bar=name == "loss")
        self.step_losses.reset()
        if (norm := self._steps.norm(self.trainer.strategy)) is not None:
            self.log("train/grad_norm", norm)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Adds a batch of one source to its metrics; returns the summed loss of each row in nats, (B,)."""
        return self.validate(self.hidden_states(batch), batch, dataloader_idx)

    def validate(self, hidden: Tensor, batch: Batch, dataloader_idx: int) -> Tensor:
        """Adds a batch to the metrics, given its hidden states, (B, T, D); returns losses as `validation_step`."""
        losses = self.token_losses(hidden, batch)
        self.validation.update(dataloader_idx, losses.total, losses.targets_N)
        return losses.of_rows(len(batch["labels"]))

    def logged_names(self, sources: Sequence[ValidationSource]) -> set[str]:
        """Returns the names of all metrics that a run can log, for callbacks that monitor one.

        Args:
            sources: The validation sources.
        """
        losses = {f"train/{name}" for name in self.step_losses.names}
        return losses | {"train/grad_norm"} | ValidationMetrics.names(sources)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/SOURCE/loss` and `val/LANG/bits_per_char`."""
        # the metrics are reduced over all ranks already; without sync_dist, Lightning warns that they are not
        self.log_dict(self.validation.compute(), sync_dist=True)
        self.validation.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer of the trainable parameters, and its schedule, stepped after each optimizer step."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        scheduler = create_schedule(self.lr_scheduler, optimizer, self._schedule_length)
        self.resume_state.created(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def identity(self, trainer: Trainer) -> RunIdentity:
        """Returns what a checkpoint of this run depends on; see `lit_modules.identity.module_identity`."""
        return module_identity(self, trainer)

    def resumable_identity(self, trainer: Trainer) -> RunIdentity:
        """Returns what must be equal to the checkpoint that this run resumes from; see `identity`."""
        new = {"optimizer": None, "schedule": None, "schedule_start": None}
        return replace(self.identity(trainer), **(new if self.resume_state.with_new_optimizer else {}))

    @property
    def _schedule_length(self) -> int:
        # trainer.estimated_stepping_batches would make a resumed run start again at the first batch
        return self.resume_state.schedule_length(training_data(self.trainer).num_steps)

    def on_load_checkpoint(self, checkpoint: LightningState) -> None:
        """Leaves out optimizer and schedule if the run starts with new ones."""
        self.resume_state.loaded(checkpoint)

    def on_save_checkpoint(self, checkpoint: LightningState) -> None:
        """Removes the frozen weights from a checkpoint, and adds the identity of the run."""
        identity = self.identity(self.trainer)
        trainable = dict(identity.trainable or ())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint.get("state_dict", {}).items() if k in trainable}
        checkpoint[manifest.IDENTITY_KEY] = identity.as_json()
        if self._planned is not None:
            self.resume_state.saved(checkpoint, self._planned.num_steps)
