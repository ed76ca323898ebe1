"""Measures time and memory of exporting a 6B model: `python -m benchmarks.weights.export`.

The baseline is copying the files, since an exported model has as many bytes as the base model. A checkpoint of
ChatGLM3-6B's size is written and extended with Japanese pieces. Training checkpoints with random weights are written
for it: adapters on all linear layers, with both embeddings in full or with their new rows only. The model is copied and
the checkpoints are exported in turns; the time includes `sync`. Needs about 60 GB of disk, and root permissions to
empty the page cache.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.synthetic_checkpoint import folder_bytes, write_checkpoint
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate
from benchmarks.weights.resize import add_checkpoint_arguments, measure
from glmja.build_tokenizer import build_tokenizer
from glmja.modeling.model_folder import ModelFolder
from glmja.resize_embeddings import resize_embeddings
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from glmja.weights.chatglm_layout import EMBEDDING, HEAD

_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")


def write_run(final: Path, model_dir: Path, rank: int, dora: bool = False, new_rows: bool = False) -> None:
    """Writes a checkpoint as a run on one device saves it, with random adapters and embeddings."""
    folder = ModelFolder.open(model_dir)
    tokenizer = folder.tokenizer
    glm, state, prefix = folder.checkpoint, {}, "model.base_model.model."
    for name, source in glm.tensors.items():
        layer = name.removesuffix(".weight")
        if name in (EMBEDDING, HEAD) and new_rows:
            rows = 0.02 * torch.randn(len(tokenizer.new_ids), source.shape[1])
            state[f"{prefix}{layer}.token_adapter.trainable_tokens_delta.default"] = rows
        elif name in (EMBEDDING, HEAD):
            state[f"{prefix}{name}"] = 0.02 * torch.randn(source.shape)
        elif name.endswith(".weight") and layer.endswith(_TARGETS):
            state[f"{prefix}{layer}.lora_A.default.weight"] = 0.01 * torch.randn(rank, source.shape[1])
            state[f"{prefix}{layer}.lora_B.default.weight"] = 0.01 * torch.randn(source.shape[0], rank)
            if dora:
                state[f"{prefix}{layer}.lora_magnitude_vector.default.weight"] = torch.rand(source.shape[0]) + 0.5
    facts = {
        "base": folder.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "tuning": "lora",
        "embeddings": "new_rows" if new_rows else "full",
        "lora": {"rank": rank, "alpha": 16, "dropout": 0.0, "targets": _TARGETS, "rslora": False, "dora": dora},
        "trainable": [[name, list(tensor.shape)] for name, tensor in state.items()],
    }
    partial = manifest.begin(final)
    torch.save({"state_dict": state}, partial / "state.ckpt")
    manifest.complete(partial, final, 1, RunIdentity.from_json(facts))


def compare(data: Path, num_layers: int, rank: int, num_rounds: int, cold: bool, scratch: Path) -> Figures:
    """Runs the commands in turns; returns the table of medians."""
    stock, base, output = scratch / "stock", scratch / "base", scratch / "output"
    write_checkpoint(stock, data / "chatglm3", num_layers)
    build_tokenizer(str(stock), str(scratch / "tokenizer"), corpus=[str(data / "text" / "ja.jsonl.gz")])
    resize_embeddings(str(stock), str(scratch / "tokenizer"), str(base), check_greedy=False)
    shutil.rmtree(stock)
    size = folder_bytes(base)
    arguments = [sys.executable, "-m", "glmja.export", f"--model={base}", f"--output={output}", "--check=false"]
    commands = {"cp": ["cp", "-r", str(base), str(output)]}
    runs = {"lora": {}, "dora": {"dora": True}, "lora, new rows": {"new_rows": True}}
    for kind, options in runs.items():
        run = scratch / kind / "checkpoints" / "step=1.ckpt"
        write_run(run, base, rank, **options)
        commands[f"export, {kind}"] = [*arguments, f"--checkpoint={run}"]
    for kind in ("lora", "lora, new rows"):
        commands[f"export, {kind}, --format adapter"] = [*commands[f"export, {kind}"], "--format=adapter"]
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in commands}
    for name in alternate(commands, num_rounds):
        cost, _, written = measure(commands[name], output, cold)
        found[name].append((cost.seconds, cost.peak_bytes, written))
    medians = {name: statistics.median(seconds for seconds, _, _ in costs) for name, costs in found.items()}
    return Figures(
        f"Exporting a model of {size / 1e9:.2f} GB, rank {rank}",
        ["command", "median seconds", "times cp", "largest peak GB", "GB written"],
        [[name, f"{medians[name]:.1f}", f"{medians[name] / medians['cp']:.2f}",
          f"{max(peak for _, peak, _ in costs) / 1e9:.2f}", f"{costs[0][2] / 1e9:.2f}"]
         for name, costs in found.items()],
        [f"{num_rounds} rounds. Times include a sync and the verification of the checkpoints' hashes. The peak counts "
         "pages of mapped files. `--check false`."],
    )  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3, data=True, scratch=True)
    add_checkpoint_arguments(parser)
    parser.add_argument("--rank", type=int, default=16, help="Rank of the adapters.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        cold, folder = not options.warm, Path(scratch)
        table = compare(options.data.resolve(), options.layers, options.rank, options.rounds, cold, folder)
    publish([machine(["torch", "safetensors"]), table], options.markdown)


if __name__ == "__main__":
    main()
