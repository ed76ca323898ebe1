"""Trains a case of `benchmarks.training.gpu` with glmja or with Hugging Face's Trainer."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import GlmForCausalLM, TrainerCallback, TrainingArguments
from transformers import Trainer as HFTrainer

from benchmarks.harness.adapters import PEFT, use
from benchmarks.training.gpu_cases import Case, make_batches
from benchmarks.training.gpu_model import device, random_model, synchronize
from callbacks.throughput import count_tokens, known_peak_tflops, peak_memory
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.batch import Batch
from glmja.modeling.flops import training_flops_per_token
from glmja.runs.contracts import Example, TrainingData
from glmja.runs.ledger import Ledger
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.twin import build as twin
from lit_modules import PackedPretraining, PaddedSFT, ZeRO2

NUM_STEPS, NUM_WARMUP, WINDOW = 40, 10, 5
LEARNING_RATE = 1e-5


class Clock:
    """Measures tokens per second over windows of steps; synchronizes the device only between windows."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Keeps the number of tokens of each step."""
        self.tokens, self.num_done = tokens, 0
        self.speeds: list[float] = []
        self.start = 0.0

    def step(self) -> None:
        """Counts a step that is done."""
        self.num_done += 1
        if self.num_done < NUM_WARMUP or (self.num_done - NUM_WARMUP) % WINDOW:
            return
        synchronize()
        now = time.perf_counter()
        if self.num_done > NUM_WARMUP:
            tokens = sum(self.tokens[self.num_done - WINDOW : self.num_done])
            self.speeds.append(tokens / (now - self.start))
        self.start = now


class LightningClock(Callback):
    """Counts steps of Lightning's Trainer and keeps their losses."""

    def __init__(self, clock: Clock) -> None:
        """Keeps the clock."""
        self.clock = clock
        self.losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step."""
        self.losses.append(outputs["loss"].detach())
        self.clock.step()


class HFClock(TrainerCallback):
    """Counts steps of Hugging Face's Trainer."""

    def __init__(self, clock: Clock) -> None:
        """Keeps the clock."""
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Counts the step."""
        self.clock.step()


class MadeBatches(LightningDataModule, TrainingData):
    """A data module of ready batches."""

    def __init__(self, batches: list[Batch], row_len: int) -> None:
        """Keeps the batches."""
        super().__init__()
        self.batches, self.num_steps, self.row_len = batches, len(batches), row_len
        self.validation_sources, self.row_sources = [], None
        self.fingerprint, self.settings, self.saved = None, None, None
        self.ledger = Ledger("", entries=[], facts={})

    def plan_ranks(self) -> int:
        """Returns the number of processes."""
        return 1

    def check_files(self) -> None:
        """Does nothing: there are no files."""

    def first_examples(self) -> list[Example]:
        """Returns nothing: there are no sources."""
        return []

    def use_tokenizer(self, tokenizer: GLMTokenizer) -> None:
        """Does nothing: the batches hold ids."""

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns a loader of the batches in order."""
        return DataLoader(self.batches, batch_size=None, pin_memory=torch.cuda.is_available())  # type: ignore[arg-type]


def run_glmja(case: Case, config: dict[str, Any], batches: list[Batch], clock: Clock, scratch: Path) -> Any:
    """Trains with glmja's module; returns the model and the losses."""

    def load(folder: Any, dtype: Any, attention: str) -> GlmForCausalLM:
        return random_model(config, attention)

    with mock.patch("lit_modules.base.load_model", load):  # instead of the tiny model in the folder
        module = (PackedPretraining if case.data == "text" else PaddedSFT)(
            str(scratch / "model"),
            embeddings=case.embeddings,
            optimizer=partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True),
            attn_implementation=case.attention,
            gradient_checkpointing=case.checkpointing,
            compile_layers=case.compiled,
            loss_chunk_len=2048,
        )
        ticker = LightningClock(clock)
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            strategy=ZeRO2() if case.zero2 else "auto",
            precision="bf16-mixed",
            max_steps=NUM_STEPS,
            gradient_clip_val=1.0,
            callbacks=[ticker],
            logger=False,
            default_root_dir=scratch,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, datamodule=MadeBatches(batches, case.row_len))
    return module.model, [float(loss) for loss in ticker.losses]


def run_hf(case: Case, config: dict[str, Any], batches: list[Batch], clock: Clock, scratch: Path) -> Any:
    """Trains with Hugging Face's Trainer and its usual loss; returns the model and the losses."""
    model = random_model(config, case.attention)
    trained = apply_tuning(model, "lora", case.embeddings, Lora(), [])
    use(trained, PEFT)
    ready = []
    for batch in batches:
        inputs = {"input_ids": batch["input_ids"], "labels": batch["labels"]}
        if case.data == "text":
            inputs["position_ids"] = batch["position_ids"]
        else:
            inputs["attention_mask"] = (torch.arange(inputs["labels"].shape[1]) < batch["lengths"][:, None]).long()
        ready.append(inputs)
    arguments = TrainingArguments(
        output_dir=str(scratch / "hf"),
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        max_steps=NUM_STEPS,
        max_grad_norm=1.0,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        gradient_checkpointing=case.checkpointing,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = HFTrainer(
        model=trained,
        args=arguments,
        train_dataset=ready,
        data_collator=first,
        callbacks=[HFClock(clock)],
    )
    return trained, [trainer.train().training_loss]


def first(batches: list[Any]) -> Any:
    """Returns the batch, which is complete already."""
    (batch,) = batches
    return batch


def train(case: Case, config: dict[str, Any]) -> dict[str, Any]:
    """Trains a case and returns its measurements; called in a process of its own."""
    batches = make_batches(case, config["vocab_size"], NUM_STEPS)
    computed, tokens, targets, attended = (np.array([count_tokens(b).tolist() for b in batches]).T[i] for i in range(4))
    clock = Clock(tokens.tolist())
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        texts = twin.text_file("en").read_text("utf-8").split("\n")
        twin.build_base(scratch / "model", texts, vocab_size=500, hidden_size=32, num_layers=1)
        run = run_glmja if case.trainer == "glmja" else run_hf
        model, losses = run(case, config, batches, clock, scratch)
    speed = statistics.median(clock.speeds)
    needed = training_flops_per_token(model, float(attended.sum() / tokens.sum())) * speed
    peak = known_peak_tflops(device())
    return {
        "tokens_per_s": speed,
        "least": min(clock.speeds),
        "most": max(clock.speeds),
        "useful_share": float(tokens.sum() / computed.sum()),
        "target_share": float(targets.sum() / tokens.sum()),
        "model_tflops": needed / 1e12,
        "mfu": needed / 1e12 / peak if peak else None,
        "peak_gb": peak_memory(device()) / 1e9,
        "loss": [losses[0], losses[-1]],
    }
