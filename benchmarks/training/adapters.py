"""Measures adapters as one operation against peft's own: `python -m benchmarks.training.adapters`.

Counts the operations and the casts of a step of the tiny GLM (bf16 weights, fp32 adapters, bf16-mixed, as on a GPU),
which depend on no machine, and times a single layer in fp32, forwards and backwards, in turns with one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import tiny_glm
from benchmarks.harness.adapters import FUSED, NO_CAST, PEFT, use
from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate, median_and_spread
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.loading import load_model
from glmja.modeling.lora_linear import LoraLinear

SHAPES = ((512, 1536), (1024, 3072), (4096, 1024))  # inputs and outputs
NUM_TOKENS, RANK, ROW_LEN = 512, 8, 128


class Count(TorchDispatchMode):
    """Counts operations, and casts between floating-point types with the bytes that they read and write."""

    def __init__(self) -> None:
        """Starts at 0."""
        super().__init__()
        self.operations = self.casts = self.cast_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts an operation and runs it."""
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        if (
            function is torch.ops.aten._to_copy.default
            and args[0].is_floating_point()
            and result.dtype != args[0].dtype
        ):
            self.casts += 1
            self.cast_bytes += args[0].nbytes + result.nbytes
        return result


def count(folder: Path) -> Figures:
    """Counts the operations of a step."""
    torch.manual_seed(0)
    model = apply_tuning(load_model(folder, torch.bfloat16), "lora", "frozen", Lora(), []).train()
    ids = torch.randint(300, 2000, (1, ROW_LEN))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    table = Figures(
        f"A step of the tiny GLM in bf16-mixed, 1 row of {ROW_LEN}",
        ["adapters", "operations", "casts", "MB read and written by casts", "loss"],
    )
    for contender in (PEFT, NO_CAST, FUSED):
        use(model, contender)
        with Count() as counted, torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
        model.zero_grad()
        cells = [f"{counted.operations:,}", f"{counted.casts:,}", f"{counted.cast_bytes / 1e6:,.1f}", f"{loss:.6f}"]
        table.rows.append([contender, *cells])
    return table


def layer_step(layer: nn.Module, x_NI: Tensor, gradient_NO: Tensor) -> Callable[[], float]:
    """Returns a function that runs a layer forwards and backwards, and returns its processor seconds."""

    def step() -> float:
        start = time.process_time()
        layer(x_NI).backward(gradient_NO)
        seconds = time.process_time() - start
        layer.zero_grad()
        x_NI.grad = None
        return seconds

    return step


def compare(shape: tuple[int, int], num_rounds: int) -> list[str]:
    """Times a layer of this shape; returns a row of the table."""
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules=["x"])
    base = nn.Linear(*shape, bias=False).requires_grad_(False)
    x_NI = torch.randn(NUM_TOKENS, shape[0], requires_grad=True)
    gradient_NO = torch.randn(NUM_TOKENS, shape[1])
    steps = {
        name: layer_step(kind(base, "default", config=config, r=RANK, lora_alpha=16).train(), x_NI, gradient_NO)
        for name, kind in ((PEFT, Linear), (FUSED, LoraLinear))
    }
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name in alternate(steps, num_rounds):
        seconds[name].append(steps[name]())
    ratios = [theirs / ours for theirs, ours in zip(seconds[PEFT], seconds[FUSED], strict=True)]
    milliseconds = [f"{1000 * statistics.median(seconds[name]):.1f}" for name in (PEFT, FUSED)]
    return [f"{shape[0]:,} → {shape[1]:,}", *milliseconds, median_and_spread(ratios), "≥ 1.10"]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    options = benchmark_parser(__doc__, rounds=30).parse_args(args)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tiny_glm.write_model(Path(scratch) / "model")
        counts = count(Path(scratch) / "model")
    table = Figures(
        f"A layer with an adapter of rank {RANK}, {NUM_TOKENS} tokens, fp32, forwards and backwards",
        ["layer", "peft, CPU ms", "one operation, CPU ms", "times as fast", "target"],
    )
    table.rows += [compare(shape, options.rounds) for shape in SHAPES]
    publish([machine(["torch", "peft"]), counts, table], options.markdown)


if __name__ == "__main__":
    main()
