"""Measures reading and converting the eight `.bin` files of ChatGLM-6B: `python -m benchmarks.weights.shards`.

Random weights are written in the published shapes, dtypes and layout, 13.4 GB. One program reads each tensor and keeps
none, another converts the model to the layout of transformers. The peak is the largest resident set, which counts the
pages of mapped files. Needs about 30 GB of disk.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import cost_of
from benchmarks.harness.synthetic_checkpoint import folder_bytes
from benchmarks.harness.tables import Figures, machine, publish
from glmja.weights.chatglm1 import CHATGLM1

_SHARD_BYTES = 1_980_000_000  # the largest published file has 1.98 GB
_CONFIG = {
    "model_type": "chatglm", "architectures": ["ChatGLMModel"], "vocab_size": 130_528, "hidden_size": 4096,
    "num_attention_heads": 32, "inner_hidden_size": 16_384, "max_sequence_length": 2048, "layernorm_epsilon": 1e-5,
    "position_encoding_2d": True, "mask_token_id": 130_000, "gmask_token_id": 130_001, "bos_token_id": 130_004,
    "eos_token_id": 130_005, "pad_token_id": 3, "torch_dtype": "float16", "use_cache": True,
}  # fmt: skip
_READ = (
    "import sys; from pathlib import Path; from glmja.weights.weight_files import open_weights\n"
    "for tensor in open_weights(Path(sys.argv[1])).values(): tensor.read_all()"
)


def write_shards(folder: Path, data: Path, num_layers: int) -> int:
    """Writes the model as it was published, with random values; returns the size of the largest file.

    Args:
        folder: New folder.
        data: Folder with ChatGLM-6B's `ice_text.model`.
        num_layers: Number of layers; the published model has 28.
    """
    folder.mkdir()
    config = _CONFIG | {"num_layers": num_layers}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(data / "ice_text.model", folder)
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in _tensors(CHATGLM1.expected_shapes(CHATGLM1.runtime_config(config))):
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    names = [f"pytorch_model-{i:05d}-of-{len(shards):05d}.bin" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        torch.save({key: tensor.clone() for key, tensor in shard.items()}, folder / name)
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return max((folder / name).stat().st_size for name in names)


def _tensors(shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Yields names and values; all layers share one tensor of each shape."""
    made: dict[str, Tensor] = {}
    for name, shape in sorted(shapes.items(), key=lambda item: item[0] == CHATGLM1.head):  # in the last file, alone
        key = re.sub(r"layers\.\d+", "layers.0", name)
        if key not in made:
            made[key] = (0.02 * torch.randn(shape)).to(torch.float32 if "layernorm" in name else torch.float16)
        yield name, made[key]


def compare(data: Path, num_layers: int, scratch: Path) -> Figures:
    """Runs both programs; returns the table."""
    model, output = scratch / "model", scratch / "output"
    largest = write_shards(model, data, num_layers)
    commands = {
        "each tensor read, none kept": [sys.executable, "-c", _READ, str(model)],
        "glmja.convert": [sys.executable, "-m", "glmja.convert", f"--model={model}", f"--output={output}"],
    }
    costs = {name: cost_of(command, sync=True) for name, command in commands.items()}
    return Figures(
        f"Reading {folder_bytes(model) / 1e9:.2f} GB in {len(list(model.glob('*.bin')))} files, the largest of "
        f"{largest / 1e9:.2f} GB",
        ["", "peak GB", "seconds", "CPU seconds"],
        [[name, f"{cost.peak_bytes / 1e9:.2f}", f"{cost.seconds:.0f}", f"{cost.cpu_seconds:.0f}"]
         for name, cost in costs.items()],
    )  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True, scratch=True)
    parser.add_argument("--layers", type=int, default=28, help="Layers of the model; ChatGLM-6B has 28.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        table = compare(options.data.resolve() / "chatglm1_tiny", options.layers, Path(scratch))
    publish([machine(["torch", "safetensors"]), table], options.markdown)


if __name__ == "__main__":
    main()
