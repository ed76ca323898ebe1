"""Measures what keeps Chinese and English while Japanese is trained: `python -m benchmarks.training.retention`.

The base is a GLM of about a million parameters, trained here on real Chinese and English text; Zero and the training
runs are made with the commands of the README. All runs have as many steps and the same text, but for the shares of the
languages. Runs that are complete are not repeated, so an interrupted measurement continues.
"""

from __future__ import annotations

import json
import time
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
_FULL = ["--model.init_args.tuning", "full", "--model.init_args.embeddings", "full"]


def _kept(weight: float) -> list[str]:
    return ["--model.init_args.retention.languages", '["zh", "en"]', "--model.init_args.retention.weight", str(weight)]


# share of Chinese and English in the mix, and flags
ARMS: dict[str, tuple[float, list[str]]] = {
    "cross entropy": (0.24, []),
    "retention, weight 10": (0.12, _kept(10)),
    "cross entropy, less of it": (0.12, []),
    "`new_rows`": (0.24, ["--model.init_args.embeddings", "new_rows"]),
    "retention, weight 3": (0.24, _kept(3)),
    "`embedding_pull`": (0.24, ["--model.init_args.embedding_pull", "10"]),
}


def train(data: Path, folder: Path, name: str, model: str, mix: dict[str, float], steps: int, *more: str) -> None:
    """Runs `glmja.fit`, unless it has run to its end."""
    run = RunFolder(folder / name)
    if (run.checkpoints / f"{RunFolder.checkpoint_name(steps, 0)}").exists():
        return
    sources = [
        {"name": x, "lang": x, "files": [str(data / "text" / f"{x}.jsonl.gz")], "weight": mix.get(x, 1e-9)}
        for x in LANGUAGES
    ]
    guard = {"class_path": "callbacks.RetentionGuard", "init_args": {"languages": ["zh", "en"], "max_drift": 1e6}}
    fit.main(
        ["--config", str(ROOT / "configs" / "demo_pretrain.yaml"), "--run_dir", str(run.path),
         "--model.init_args.model_dir", str(folder / model), "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", str(folder / "cache"), "--data.init_args.val_share", "0.003",
         "--data.init_args.row_len", "256", "--data.init_args.batch_size", "4",
         "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", str(steps),
         "--trainer.val_check_interval", str(steps), "--trainer.limit_val_batches", "25",
         "--model.init_args.optimizer.lr", "2.0e-3", "--trainer.enable_progress_bar", "false",
         "--trainer.callbacks", json.dumps([{"class_path": "callbacks.ValidationTable"}, guard]), *more]
    )  # fmt: skip


def prepare(data: Path, folder: Path, base_steps: int) -> None:
    """Trains the base and grows it, unless that is done."""
    if (folder / "zero").exists():
        return
    texts = [text for x in ("zh", "en") for text in islice(read_documents([data / "text" / f"{x}.jsonl.gz"]), 400)]
    if not (folder / "random").exists():
        twin.build_base(folder / "random", texts, vocab_size=8000, hidden_size=128, num_layers=3)
    train(data, folder, "base_run", "random", {"ja": 0.2, "zh": 0.4, "en": 0.4}, base_steps, *_FULL)
    export.main(["--checkpoint", str(folder / "base_run"), "--output", str(folder / "base"), "--dtype", "float32"])
    corpus = folder / "ja.txt"
    corpus.write_text("\n".join(islice(read_documents([data / "text" / "ja.jsonl.gz"]), 1000)), encoding="utf-8")
    build_tokenizer.main(["--base", str(folder / "base"), "--corpus", str(corpus), "--num_new_pieces", "2000",
                          "--output", str(folder / "tokenizer")])  # fmt: skip
    resize_embeddings.main(["--base", str(folder / "base"), "--tokenizer", str(folder / "tokenizer"), "--output",
                            str(folder / "zero")])  # fmt: skip


def compare(data: Path, folder: Path, base_steps: int, steps: int) -> Figures:
    """Trains all arms; returns Japanese, and the drift of Chinese and English since before training."""
    prepare(data, folder, base_steps)
    columns = ["run", "zh + en", "ja bits/char", "zh drift", "en drift", "KL zh, en", "CPU s"]
    table = Figures(f"{steps} steps of 2,048 tokens after Zero", columns)
    for name, (share, more) in ARMS.items():
        folder_name, start = name.replace("`", "").replace(",", "").replace(" ", "_"), time.process_time()
        mix = {"ja": 1 - share, "zh": share / 2, "en": share / 2}
        train(data, folder, folder_name, "zero", mix, steps, *more)
        seconds = time.process_time() - start
        run = RunFolder(folder / folder_name)
        scores = run.last_scores(steps)
        drifts = [_drift(scores, x) for x in ("zh", "en")]
        kl = [f"{scores[f'val/{x}/kl']:.3f}" for x in ("zh", "en") if f"val/{x}/kl" in scores]
        table.rows.append([
            name, f"{share:.0%}", f"{scores['val/ja/bits_per_char']:.3f}", *drifts, ", ".join(kl),
            f"{seconds:.0f}" if seconds > 5 else "",
        ])  # fmt: skip
    before = RunFolder(folder / "cross_entropy").last_scores(0)
    table.rows.insert(0, ["Zero", "", f"{before['val/ja/bits_per_char']:.3f}", "", "", "", ""])
    return table


def _drift(scores: dict[str, float], lang: str) -> str:
    drift, low, high = (scores[f"val/{lang}/drift{name}"] for name in ("", "_low", "_high"))
    return f"{drift:+.1%} [{low:+.1%}, {high:+.1%}]"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--output", type=Path, default=Path("/tmp/retention"), help="Folder for all files.")
    parser.add_argument("--base_steps", type=int, default=400, help="Steps of 2,048 tokens to train the base.")
    parser.add_argument("--steps", type=int, default=60, help="Steps of 2,048 tokens of each run.")
    options = parser.parse_args(args)
    publish([compare(options.data.resolve(), options.output, options.base_steps, options.steps)], options.markdown)


if __name__ == "__main__":
    main()
