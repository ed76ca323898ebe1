"""Bits of held-out windows, of a model and within a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedModel

from benchmarks.proof.texts import Window
from glmja.modeling.adapters import unwrap_peft
from glmja.modeling.batch import IGNORE_INDEX, pad_sequences
from glmja.modeling.contracts import training_module
from glmja.modeling.loss import token_losses
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import isolated_processor

Bits = dict[str, list[float]]  # of each window, by language

_BATCH_SIZE = 8


@torch.inference_mode()
def window_bits(model: PreTrainedModel, tokenizer: GLMTokenizer, windows: Mapping[str, Sequence[Window]]) -> Bits:
    """Returns the negative log-likelihood in bits of the predicted part of each window, given the other.

    Both parts are encoded on their own and without the space that SentencePiece puts before a text, so models of all
    tokenizers predict the same characters after the same characters. Padding rows of the head do not count.
    """
    processor, head_VD = isolated_processor(tokenizer.proto), model.get_output_embeddings().weight[: len(tokenizer)]
    found: Bits = {}
    for lang, cut in windows.items():
        pairs = [(processor.encode(window.given), processor.encode(window.predicted)) for window in cut]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        bits = [0.0] * len(pairs)
        for start in range(0, len(order), _BATCH_SIZE):
            numbers = order[start : start + _BATCH_SIZE]
            batch = [pairs[i] for i in numbers]
            # with causal attention, padding on the right needs no mask
            ids_BT = pad_sequences([given + predicted for given, predicted in batch], 0)
            targets = [[IGNORE_INDEX] * len(given) + predicted for given, predicted in batch]
            hidden_BTD = model.base_model(ids_BT, use_cache=False).last_hidden_state
            losses = token_losses(hidden_BTD, head_VD, pad_sequences(targets, IGNORE_INDEX))
            for number, nats in zip(numbers, losses.of_rows(len(batch)).tolist(), strict=True):
                bits[number] = round(nats / math.log(2), 2)
        found[lang] = bits
    return found


def read_windows(path: Path, count: int | None = None) -> dict[str, list[Window]]:
    """Reads the windows of each language, or the first ones of them."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {lang: [Window(*cut) for cut in found[:count]] for lang, found in content.items()}


class Curve(Callback):
    """Measures the windows after some optimizer steps, and writes `STEP.json` for each; resumable."""

    def __init__(self, windows: str, output: str, steps: list[int], windows_between: int) -> None:
        """Creates the callback without reading the windows.

        Args:
            windows: File of the windows.
            output: Folder to write to.
            steps: Optimizer steps after which to measure; all windows after the last.
            windows_between: Number of windows of each language after the others.
        """
        self.windows, self.output = Path(windows), Path(output)
        self.steps, self.windows_between = steps, windows_between
        self._cpu_before = self._start = 0.0

    @property
    def cpu_seconds(self) -> float:
        """Processor time of training so far, without measuring."""
        return self._cpu_before + time.process_time() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Returns the processor time so far."""
        return {"cpu_seconds": self.cpu_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._cpu_before = state_dict["cpu_seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Measures, if this step is one of those."""
        step = trainer.global_step
        path = self.output / f"{step}.json"
        if step not in self.steps or path.exists():
            return
        self._cpu_before, module = self.cpu_seconds, training_module(pl_module)
        windows = read_windows(self.windows, None if step == self.steps[-1] else self.windows_between)
        model = unwrap_peft(module.model)
        model.eval()
        bits = window_bits(model, module.tokenizer, windows)
        model.train()
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "cpu_seconds": self._cpu_before, "bits": bits}), encoding="utf-8")
        self._start = time.process_time()
