"""Measures the chunked loss against cross entropy on full logits: `python -m benchmarks.training.loss`.

Each measurement runs in its own process, since peak memory can only rise. Contenders take turns, with one thread each.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate
from glmja.modeling.loss import next_token_loss

N, D, V = 2048, 512, 78_592


def plain(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Computes all logits in fp32 at once, as transformers' `ForCausalLMLoss`."""
    logits_BTV = F.linear(hidden_BTD, head_VD).float()
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum")


def chunked(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Computes the loss of `glmja.modeling.loss`."""
    return next_token_loss(hidden_BTD, head_VD, labels_BT)[0]


CONTENDERS = {"plain": plain, "chunked": chunked}


def peak() -> int:
    """Returns the largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Measures a loss with both gradients: CPU seconds, memory above the inputs, and error against fp64."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, N + 1, D, generator=generator).to(dtype).requires_grad_()
    head = (torch.randn(V, D, generator=generator) * D**-0.5).to(dtype).requires_grad_()
    labels = torch.randint(V, (1, N + 1), generator=generator)
    F.linear(hidden[:, :8], head[:64]).sum().backward()  # loads the kernels
    hidden.grad = head.grad = None
    before, start = peak(), time.process_time()
    loss = CONTENDERS[name](hidden, head, labels)
    loss.backward()
    seconds, extra = time.process_time() - start, peak() - before
    with torch.no_grad():
        exact = sum(
            plain64(hidden[:, i : i + 129], head, labels[:, i : i + 129]) for i in range(0, N, 128)
        )  # in blocks of 128 predictions
    return {"seconds": seconds, "extra_bytes": extra, "error": abs(loss.item() - exact) / exact}


def plain64(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> float:
    """Computes the loss in fp64."""
    logits = F.linear(hidden_BTD[:, :-1].double(), head_VD.double())
    return F.cross_entropy(logits.flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum").item()


def compare(num_rounds: int) -> Figures:
    """Measures all contenders in turns."""
    table = Figures(
        f"Loss and both gradients, {N:,} positions, width {D}, {V:,} rows, one thread",
        ["dtype", "loss", "median seconds", "times plain", "extra GB", "times plain", "relative error of the loss"],
    )
    for dtype in ("float32", "bfloat16"):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for name in alternate(CONTENDERS, num_rounds):
            command = [sys.executable, "-m", "benchmarks.training.loss", "--measure", name, "--dtype", dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[name].append(json.loads(done.stdout))
        middle = {
            name: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for name, found in runs.items()
        }
        for name, found in middle.items():
            times = [found[key] / middle["plain"][key] for key in ("seconds", "extra_bytes")]
            cells = [
                f"{found['seconds']:.2f}",
                f"{times[0]:.2f}",
                f"{found['extra_bytes'] / 1e9:.2f}",
                f"{times[1]:.2f}",
            ]
            table.rows.append([dtype, name, *cells, f"{found['error']:.1e}"])
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--measure", choices=list(CONTENDERS), help="Measure one contender and print JSON.")
    parser.add_argument("--dtype", default="float32", help="Used by --measure.")
    options = parser.parse_args(args)
    if options.measure:
        print(json.dumps(measure(options.measure, getattr(torch, options.dtype))))
    else:
        publish([machine(["torch"]), compare(options.rounds)], options.markdown)


if __name__ == "__main__":
    main()
