"""Trainers of Lightning and of Hugging Face that do the same work in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Sampler
from transformers import Trainer as HFTrainer
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.harness.adapters import PEFT, use
from benchmarks.harness.turns import Turn
from glmja.modeling.batch import IGNORE_INDEX

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}

_ENDLESS = 10**6  # steps; the process that asks for turns ends the run


def adamw(learning_rate: float) -> Callable[..., Optimizer]:
    """Returns the optimizer that both sides use."""
    return partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.0, fused=True)


def constant(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Returns the constant schedule that both sides use."""
    return LambdaLR(optimizer, lambda step: 1.0)


def lightning_trainer(scratch: Path, precision: str, callbacks: Sequence[Callback], **options: Any) -> Trainer:
    """Makes Lightning's Trainer with the settings of a run, without logs and checkpoints."""
    defaults = {"logger": False, "max_steps": _ENDLESS, "max_epochs": 1}
    return Trainer(
        **defaults | options,
        accelerator="cpu",
        devices=1,
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        default_root_dir=scratch,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class SeededAdapters(LightningModule):
    """A mixin that draws the same initial adapters in each process."""

    def configure_model(self) -> None:
        """Loads the weights and adds the adapters."""
        torch.manual_seed(0)
        super().configure_model()


class StepTurns(Callback):
    """Takes one optimizer step per turn."""

    def __init__(self, turn: Turn) -> None:
        """Keeps the connection."""
        self.turn = turn

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the first turn."""
        self.turn.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the turn. Must be the last callback, so that the time of the others is counted."""
        self.turn.end(loss=float(outputs["loss"]), tokens=int(batch["lengths"].sum()))


class GroupedByLength(Sampler[int]):
    """Groups rows by length over 50 batches; Hugging Face's sampler takes smaller groups below 1,600 rows."""

    def __init__(self, lengths: list[int], batch_size: int) -> None:
        """Keeps the lengths."""
        self.lengths, self.batch_size = lengths, batch_size

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Draws the order of the rows."""
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, mega_batch_mult=50))


class CountingTrainer(HFTrainer):
    """Hugging Face's Trainer that also sums losses and tokens.

    Attributes:
        seen: Sums since the last call of `take`.
    """

    seen: dict[str, float]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Groups by length over 50 batches at once, as Hugging Face does in a large data set."""
        if self.args.train_sampling_strategy == "group_by_length":
            return GroupedByLength([len(row["input_ids"]) for row in self.train_dataset], self.args.train_batch_size)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the loss and adds to the sums."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        targets = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
        computed = inputs["input_ids"].numel()
        tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else computed
        counts = {"nats": float(loss) * targets, "targets": targets, "tokens": tokens, "computed": computed}
        for key, value in counts.items():
            self.seen[key] = self.seen.get(key, 0) + value
        return loss

    def take(self) -> dict[str, float]:
        """Returns the sums and resets them."""
        seen, self.seen = self.seen, {}
        return seen


def hf_trainer(
    model: nn.Module, dataset: Any, scratch: Path, precision: str, learning_rate: float, **options: Any
) -> CountingTrainer:
    """Makes Hugging Face's Trainer with its usual settings and the optimizer that is fastest on a processor.

    The model's adapters become those of peft.
    """
    use(model, PEFT)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=precision == "bf16",
        optim="adamw_torch_fused",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **options.pop("arguments"),
    )
    trainer = CountingTrainer(model=model, args=arguments, train_dataset=dataset, **options)
    trainer.seen = {}
    return trainer


class HFTurns(TrainerCallback):
    """Takes one optimizer step or one epoch of Hugging Face's Trainer per turn."""

    def __init__(self, turn: Turn, per_epoch: bool = False) -> None:
        """Keeps the connection; the attribute `trainer` must be set before training."""
        self.turn, self.per_epoch = turn, per_epoch
        self.trainer: CountingTrainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Waits for the first turn."""
        self.turn.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends a turn of one step."""
        if not self.per_epoch:
            self._end()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends a turn of one epoch."""
        if self.per_epoch:
            self._end()

    def _end(self) -> None:
        seen = self.trainer.take()
        self.turn.end(loss=seen["nats"] / seen["targets"], **seen)
