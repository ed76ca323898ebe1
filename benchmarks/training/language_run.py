"""A small model that knows Chinese and English is given Japanese: what is learnt, and what is kept.

    python -m benchmarks.training.language_run --output /tmp/language_run

The base is a ChatGLM3 of a few million parameters, trained here on real Chinese and English text. Then come the
project's steps as a user would type them, the recipe's mix of 76/12/12 among them, and for comparison the same run on
Japanese alone. `tensorboard --logdir OUTPUT` shows the curves.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glmja import build_tokenizer, export, fit, resize_embeddings
from glmja.files.documents import read_documents
from glmja.runs.run_folder import last_scores
from glmja.twin import build as twin

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("GLMJA_DATA", ROOT.parent / "shared" / "data")) / "text"
LANGUAGES = ("ja", "zh", "en")
MIX = {"ja": 0.76, "zh": 0.12, "en": 0.12}


def train(folder: Path, name: str, model: str, weights: dict[str, float], steps: int, *more: str) -> None:
    """One run of the command line, validated on all three languages."""
    sources = [
        {"name": x, "lang": x, "files": [str(DATA / f"{x}.jsonl.gz")], "weight": weights.get(x, 1e-9)}
        for x in LANGUAGES
    ]
    fit.main(
        ["--config", str(ROOT / "configs" / "demo_pretrain.yaml"), "--run_dir", str(folder / name),
         "--model.init_args.model_dir", str(folder / model), "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", str(folder / "cache"), "--data.init_args.val_share", "0.003",
         "--data.init_args.row_len", "256", "--data.init_args.batch_size", "16", "--trainer.max_steps", str(steps),
         "--trainer.val_check_interval", str(steps // 10), "--trainer.limit_val_batches", "16",
         "--trainer.num_sanity_val_steps", "16", "--model.init_args.optimizer.lr", "1.0e-3", *more]
    )  # fmt: skip


def main() -> None:
    """Runs all, and prints bits per character before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("/tmp/language_run"), help="new folder")
    parser.add_argument("--base_steps", type=int, default=500, help="steps of 4,096 tokens that make the base")
    parser.add_argument("--steps", type=int, default=300, help="steps of 4,096 tokens on Japanese")
    args = parser.parse_args()
    folder: Path = args.output
    texts = [text for x in ("zh", "en") for text in list(read_documents([DATA / f"{x}.jsonl.gz"]))[:400]]
    twin.build_base(folder / "random", texts, vocab_size=8000, hidden_size=256, num_layers=4)
    everything = ("--model.init_args.tuning", "full", "--model.init_args.embeddings", "full")
    train(folder, "base_run", "random", {"zh": 0.5, "en": 0.5}, args.base_steps, *everything)
    export.main(["--checkpoint", str(folder / "base_run"), "--output", str(folder / "base"), "--dtype", "float32"])
    build_tokenizer.main(["--base", str(folder / "base"), "--corpus", str(DATA / "ja.jsonl.gz"), "--num_new_pieces",
                          "4000", "--output", str(folder / "tokenizer")])  # fmt: skip
    resize_embeddings.main(["--base", str(folder / "base"), "--tokenizer", str(folder / "tokenizer"), "--output",
                            str(folder / "zero")])  # fmt: skip
    train(folder, "mix", "zero", MIX, args.steps)
    train(folder, "japanese_only", "zero", {"ja": 1.0}, args.steps)
    table = Table("bits per character of held-out text", "Zero", "76/12/12", "Japanese only")
    for x in LANGUAGES:
        key = f"val/{x}/bits_per_char"
        runs = [
            last_scores(folder / "mix", 0),
            *(last_scores(folder / n, args.steps) for n in ("mix", "japanese_only")),
        ]
        table.add_row(x, *(f"{run[key]:.3f}" for run in runs))
    Console().print(table)


if __name__ == "__main__":
    main()
