"""Times the parts of a training step by themselves: a matrix product, the optimizer, and the loss."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.training.gpu_model import device, random_model, synchronize
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.loss import next_token_loss

REPEATS = 7


def milliseconds(work: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Returns the milliseconds of each repetition after a first one."""
    found = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        found.append(1000 * (time.perf_counter() - start))
    return found[1:]


def measure(work: Callable[[], Any], teraflop: float = 0.0) -> dict[str, float]:
    """Measures time and memory of a piece of work, and TFLOP/s if its number of operations is given."""
    on_gpu = torch.cuda.is_available()
    gc.collect()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = milliseconds(work)
    median = statistics.median(times)
    extra = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    found = {"ms": median, "least": min(times), "most": max(times), "extra_gb": extra / 1e9}
    return found | {"tflops": teraflop / median * 1000}


def measure_parts(config: dict[str, Any], num_tokens: int) -> dict[str, dict[str, float]]:
    """Measures all parts, one after the other."""
    return measure_product(num_tokens) | measure_optimizers(config) | measure_losses(config, num_tokens)


def measure_product(side: int) -> dict[str, dict[str, float]]:
    """Measures a square matrix product in bf16."""
    a = torch.randn(side, side, device=device(), dtype=torch.bfloat16)
    return {f"bf16 product, {side}³": measure(partial(torch.mm, a, a), 2 * side**3 / 1e12)}


def measure_optimizers(config: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Measures both kinds of AdamW on the trainable parameters of the default recipe."""
    made = apply_tuning(random_model(config, "sdpa"), "lora", "full", Lora(), [])
    shapes = [p.shape for p in made.parameters() if p.requires_grad]
    del made
    gc.collect()
    trained = [torch.zeros(shape, device=device(), requires_grad=True) for shape in shapes]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    count, found = sum(p.numel() for p in trained), {}
    for kind in ("fused", "foreach"):
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=kind == "fused", foreach=kind == "foreach")
        found[f"AdamW {kind}, {count / 1e6:.1f} M"] = measure(optimizer.step)
        del optimizer
    return found


def measure_losses(config: dict[str, Any], num_tokens: int) -> dict[str, dict[str, float]]:
    """Measures the chunked loss and plain cross entropy, each with both gradients under autocast."""
    width, num_rows, found = config["hidden_size"], config["vocab_size"], {}
    targets = torch.randint(num_rows, (1, num_tokens + 1), device=device())
    flop = 6 * num_tokens * width * num_rows / 1e12
    for dtype in (torch.float32, torch.bfloat16):  # parameters are fp32 in bf16-mixed
        hidden = torch.randn(1, num_tokens + 1, width, device=device(), dtype=dtype).requires_grad_()
        head = (0.02 * torch.randn(num_rows, width, device=device(), dtype=dtype)).requires_grad_()
        kind = f"{'fp32' if dtype == torch.float32 else 'bf16'} under autocast"
        for chunk_len in (256, 1024, 2048, 4096):
            chunked = partial(_chunked, chunk_len=chunk_len)
            found[f"loss, {kind}, chunks of {chunk_len}"] = measure(
                partial(_differentiate, chunked, hidden, head, targets), flop
            )
        found[f"loss, {kind}, plain"] = measure(partial(_differentiate, _plain, hidden, head, targets), flop)
    return found


def _differentiate(loss: Callable[..., Tensor], hidden: Tensor, head: Tensor, targets: Tensor) -> None:
    hidden.grad = head.grad = None
    with torch.autocast(device().type, torch.bfloat16):
        total = loss(hidden, head, targets)
    total.backward()


def _plain(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden[0, :-1], head).float(), targets[0, 1:], reduction="sum")


def _chunked(hidden: Tensor, head: Tensor, targets: Tensor, chunk_len: int) -> Tensor:
    return next_token_loss(hidden, head, targets, chunk_len)[0]
