"""Measures training steps with and without what glmja adds to them: `python -m benchmarks.training.attention`.

The tiny GLM of `benchmarks.training.training_step` takes fp32 steps on packed rows with one thread: with a dense mask
and peft's adapters, with attention within documents, and with fused adapters as well. All take the same rows in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import tiny_glm
from benchmarks.harness.adapters import FUSED, PEFT, use
from benchmarks.harness.arguments import benchmark_parser, data_folder
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate, median_and_spread
from benchmarks.training.sft_throughput import conversation_files, data_module, sample
from data_modules.batches.rows import Fragment, collate, pack
from glmja.modeling.adapters import Lora, apply_tuning, unwrap_peft
from glmja.modeling.attention import AttentionName, model_inputs
from glmja.modeling.batch import Batch
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss

CONTENDERS: dict[str, tuple[AttentionName, bool]] = {
    "dense mask, peft": ("sdpa", False),
    "documents, peft": ("documents", False),
    "documents, fused adapters": ("documents", True),
}
TARGETS = {"SFT, 1 × 4,096": "≥ 2.0", "SFT, 2 × 1,024": "≥ 1.1", "3 documents, 1 × 4,096": "≥ 1.4",
           "1 document, 1 × 4,096": "≥ 0.99"}  # fmt: skip
_NUM_CONVERSATIONS = 400


def sft_batches(scratch: Path, data: Path, row_len: int, num_rows: int) -> Iterator[Batch]:
    """Yields batches of packed conversations."""
    chats = scratch / "chats.jsonl"
    sample(conversation_files(data), _NUM_CONVERSATIONS, chats, 0)
    made = data_module(scratch / "model", {"chats": str(chats)}, scratch, row_len, row_len * num_rows, True, 1)
    planned: Any = tiny_glm.plan_batches(made).train_dataloader()
    yield from planned


def of_documents(num_documents: int, row_len: int = 4096) -> Iterator[Batch]:
    """Yields batches of one row with documents of random ids and random lengths."""
    numbers = np.random.default_rng(0)
    while True:
        ends = np.sort(numbers.choice(np.arange(1, row_len), num_documents - 1, replace=False))
        lengths = np.diff([0, *ends, row_len])
        yield collate([pack([Fragment(numbers.integers(300, 2000, n).astype(np.uint32)) for n in lengths])])


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, attention: str, batch: Batch) -> float:
    """Takes an optimizer step; returns the loss per target token."""
    glm: Any = unwrap_peft(model)
    hidden = glm.model(**model_inputs(batch, attention)).last_hidden_state
    total, targets = next_token_loss(hidden, glm.lm_head.weight, batch["labels"], 256)
    (total / targets.numel()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(total.detach()) / targets.numel()


def contender(folder: Path, attention: AttentionName, fused: bool) -> Callable[[Batch], float]:
    """Returns a function that takes a step of a model with adapters on all layers."""
    torch.manual_seed(0)
    model = apply_tuning(load_model(folder, torch.float32, attention), "lora", "frozen", Lora(), []).train()
    use(model, FUSED if fused else PEFT)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    return lambda batch: step(model, optimizer, attention, batch)


def compare(folder: Path, name: str, batches: Iterator[Batch], num_rounds: int) -> list[list[str]]:
    """Returns the rows of the table for one kind of batches."""
    steps = {key: contender(folder, *options) for key, options in CONTENDERS.items()}
    warmup = next(batches)
    for take in steps.values():
        take(warmup)
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    losses: dict[str, list[float]] = {key: [] for key in steps}
    batch, documents = next(batches), []
    for i, key in enumerate(alternate(steps, num_rounds)):
        if i and i % len(steps) == 0:
            batch = next(batches)
        if i % len(steps) == 0:
            documents.append(len(batch["document_offsets"]) - 1)
        start = time.process_time()
        losses[key].append(steps[key](batch))
        seconds[key].append(time.process_time() - start)
    first, *others = CONTENDERS
    expected = losses[first]
    rows = [[f"{name}: {first}", f"{statistics.mean(documents):.1f}", f"{statistics.median(seconds[first]):.2f}", "1",
             "", ""]]  # fmt: skip
    for key in others:
        apart = max(abs(a - b) / b for a, b in zip(losses[key], expected, strict=True))
        times = [a / b for a, b in zip(seconds[first], seconds[key], strict=True)]
        rows.append([f"{name}: {key}", "", f"{statistics.median(seconds[key]):.2f}", median_and_spread(times),
                     f"{apart:.1e}", TARGETS.get(name, "")])  # fmt: skip
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=9)
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    headings = ["batches: step", "documents", "CPU s a step", "times as fast", "difference of losses", "target"]
    table = Figures("Steps on packed rows in fp32, one thread", headings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        tiny_glm.write_model(folder)
        cases = {
            "SFT, 1 × 4,096": lambda: sft_batches(Path(scratch), data_folder(), 4096, 1),
            "SFT, 2 × 1,024": lambda: sft_batches(Path(scratch), data_folder(), 1024, 2),
            "3 documents, 1 × 4,096": lambda: of_documents(3),
            "1 document, 1 × 4,096": lambda: of_documents(1),
        }
        for name, batches in cases.items():
            table.rows += compare(folder, name, batches(), options.rounds)
    publish([machine(["torch", "transformers", "peft"]), table], options.markdown)


if __name__ == "__main__":
    main()
