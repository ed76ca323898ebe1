"""Measures learning of Japanese and forgetting of Chinese and English: `python -m benchmarks.training.language_run`.

The base is a ChatGLM3 of a few million parameters, trained here on real Chinese and English text. Then the commands of
the README run as a user would type them: one training run with a mix of 76/12/12, and one on Japanese
only. `tensorboard --logdir OUTPUT` shows the curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from benchmarks.harness.arguments import ROOT, benchmark_parser
from benchmarks.harness.tables import Figures, publish
from glmja import build_tokenizer, export, fit, resize_embeddings
from glmja.files.documents import read_documents
from glmja.runs.run_folder import RunFolder
from glmja.twin import build as twin

LANGUAGES = ("ja", "zh", "en")
MIX = {"ja": 0.76, "zh": 0.12, "en": 0.12}


def train(data: Path, folder: Path, name: str, model: str, weights: dict[str, float], steps: int, *more: str) -> None:
    """Runs `glmja.fit`, validated on all three languages."""
    sources = [
        {"name": x, "lang": x, "files": [str(data / "text" / f"{x}.jsonl.gz")], "weight": weights.get(x, 1e-9)}
        for x in LANGUAGES
    ]
    fit.main(
        ["--config", str(ROOT / "configs" / "demo_pretrain.yaml"), "--run_dir", str(folder / name),
         "--model.model_dir", str(folder / model), "--data.sources", json.dumps(sources),
         "--data.cache_dir", str(folder / "cache"), "--data.val_share", "0.003",
         "--data.row_len", "256", "--data.batch_size", "16", "--trainer.max_steps", str(steps),
         "--trainer.val_check_interval", str(steps // 10), "--trainer.limit_val_batches", "16",
         "--trainer.num_sanity_val_steps", "16", "--model.optimizer.lr", "1.0e-3", *more]
    )  # fmt: skip


def compare(data: Path, folder: Path, base_steps: int, steps: int) -> Figures:
    """Trains the base and both runs; returns bits per character before and after."""
    japanese = str(data / "text" / "ja.jsonl.gz")
    texts = [text for x in ("zh", "en") for text in islice(read_documents([data / "text" / f"{x}.jsonl.gz"]), 400)]
    twin.build_base(folder / "random", texts, vocab_size=8000, hidden_size=256, num_layers=4)
    everything = ("--model.tuning", "full", "--model.embeddings", "full")
    train(data, folder, "base_run", "random", {"zh": 0.5, "en": 0.5}, base_steps, *everything)
    export.main(["--checkpoint", str(folder / "base_run"), "--output", str(folder / "base"), "--dtype", "float32"])
    build_tokenizer.main(["--base", str(folder / "base"), "--corpus", japanese, "--num_new_pieces", "4000",
                          "--output", str(folder / "tokenizer")])  # fmt: skip
    resize_embeddings.main(["--base", str(folder / "base"), "--tokenizer", str(folder / "tokenizer"), "--output",
                            str(folder / "zero")])  # fmt: skip
    train(data, folder, "mix", "zero", MIX, steps)
    train(data, folder, "japanese_only", "zero", {"ja": 1.0}, steps)
    title = f"Bits per character of held-out text; {steps} steps of 4,096 tokens"
    table = Figures(title, ["language", "Zero", "76 % ja, 12 % zh, 12 % en", "Japanese only"])
    for x in LANGUAGES:
        key = f"val/{x}/bits_per_char"
        runs = [RunFolder(folder / "mix").last_scores(0)]
        runs += [RunFolder(folder / name).last_scores(steps) for name in ("mix", "japanese_only")]
        table.rows.append([x, *(f"{run[key]:.3f}" for run in runs)])
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--output", type=Path, default=Path("/tmp/language_run"), help="New folder for all files.")
    parser.add_argument("--base_steps", type=int, default=500, help="Steps of 4,096 tokens to train the base.")
    parser.add_argument("--steps", type=int, default=300, help="Steps of 4,096 tokens of each run.")
    options = parser.parse_args(args)
    publish([compare(options.data.resolve(), options.output, options.base_steps, options.steps)], options.markdown)


if __name__ == "__main__":
    main()
