"""`python -m benchmarks.training.loss`: the chunked loss beside plain cross entropy on full logits.

Each measurement is a process of its own, since peak memory can only rise; contenders take turns, one thread each.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

# A script finds its own folder on Python's path; the packages lie one above.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.tables import Figures, machine, publish
from glmja.modeling.loss import next_token_loss

N, D, V = 2048, 512, 78_592


def plain(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """What transformers' `ForCausalLMLoss` does: all logits, in fp32, at once."""
    logits_BTV = F.linear(hidden_BTD, head_VD).float()
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum")


def chunked(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Ours."""
    return next_token_loss(hidden_BTD, head_VD, labels_BT)[0]


CONTENDERS = {"plain": plain, "chunked": chunked}


def peak() -> int:
    """Largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, dtype: torch.dtype) -> dict[str, float]:
    """One loss with both gradients: seconds of the processor, memory beyond the inputs, error against fp64."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, N + 1, D, generator=generator).to(dtype).requires_grad_()
    head = (torch.randn(V, D, generator=generator) * D**-0.5).to(dtype).requires_grad_()
    labels = torch.randint(V, (1, N + 1), generator=generator)
    F.linear(hidden[:, :8], head[:64]).sum().backward()  # kernels are loaded
    hidden.grad = head.grad = None
    before, start = peak(), time.process_time()
    loss = CONTENDERS[name](hidden, head, labels)
    loss.backward()
    seconds, extra = time.process_time() - start, peak() - before
    with torch.no_grad():
        exact = sum(
            plain64(hidden[:, i : i + 129], head, labels[:, i : i + 129]) for i in range(0, N, 128)
        )  # 128 predictions a block
    return {"seconds": seconds, "extra_bytes": extra, "error": abs(loss.item() - exact) / exact}


def plain64(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> float:
    """The loss in fp64."""
    logits = F.linear(hidden_BTD[:, :-1].double(), head_VD.double())
    return F.cross_entropy(logits.flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum").item()


def compare(num_rounds: int) -> Figures:
    """All contenders in turns."""
    table = Figures(
        f"Loss and both gradients, {N:,} positions, width {D}, {V:,} rows, one thread",
        ["dtype", "loss", "median seconds", "times plain", "extra GB", "times plain", "relative error of the loss"],
    )
    for dtype in ("float32", "bfloat16"):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(num_rounds):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--measure", name, "--dtype", dtype]
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


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Runs of each contender.")
    parser.add_argument("--markdown", help="File to write the tables to.")
    parser.add_argument("--measure", choices=list(CONTENDERS), help="Measure one contender and print JSON.")
    parser.add_argument("--dtype", default="float32", help="Of --measure.")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, getattr(torch, args.dtype))))
    else:
        publish([machine(["torch"]), compare(args.rounds)], args.markdown)


if __name__ == "__main__":
    main()
