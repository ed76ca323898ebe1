"""Measures initializations of new embedding rows before any training: `python -m benchmarks.weights.inits`.

A small ChatGLM3 is trained here on real Chinese, English and Japanese text, so that it knows Japanese spelled by its
own short pieces, as ChatGLM3 does. Then Japanese pieces are learned, and `resize_embeddings` makes a Zero model with
each initialization. Its report holds the bits per character of base and Zero on documents that nothing was trained on.
A base and a tokenizer that exist in `--output` are not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from benchmarks.harness.arguments import ROOT, benchmark_parser
from benchmarks.harness.tables import Figures, publish
from glmja import build_tokenizer, export, fit, resize_embeddings
from glmja.files.documents import read_documents
from glmja.twin import build as twin
from glmja.weights.options import Init

MIX = {"ja": 0.2, "zh": 0.4, "en": 0.4}
# characters: held out, to train the base, to learn and calibrate pieces
SPLITS = {"ja": (40_000, 500_000, 2_000_000), "zh": (40_000, 1_500_000, 0), "en": (100_000, 2_500_000, 0)}
DOCUMENTS = {"ja": 20, "zh": 150, "en": 300}  # to learn the vocabulary of the base from
CHECKED = 40_000  # characters of each held-out text that are read
PARTS = ("held_out", "base", "pieces")


def split(data: Path, folder: Path) -> None:
    """Writes documents, in the order of their hashes, into one file for each language and part."""
    for lang, sizes in SPLITS.items():
        texts = sorted(read_documents([data / "text" / f"{lang}.jsonl.gz"]), key=_hash)
        documents = iter(texts)
        for part, size in zip(PARTS, sizes, strict=True):
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in _up_to(documents, size))
            (folder / f"{lang}.{part}.jsonl").write_text("".join(lines), encoding="utf-8")


def train_base(folder: Path, steps: int, width: int, layers: int, pieces: int) -> None:
    """Trains the base in full with `glmja.fit`."""
    texts = [text for x in MIX for text in islice(read_documents([folder / f"{x}.base.jsonl"]), DOCUMENTS[x])]
    twin.build_base(folder / "random", texts, vocab_size=pieces, hidden_size=width, num_layers=layers)
    sources = [{"name": x, "lang": x, "files": [str(folder / f"{x}.base.jsonl")], "weight": w} for x, w in MIX.items()]
    fit.main(
        ["--config", str(ROOT / "configs" / "demo_pretrain.yaml"), "--run_dir", str(folder / "run"),
         "--model.init_args.model_dir", str(folder / "random"), "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", str(folder / "cache"), "--data.init_args.val_share", "0.003",
         "--data.init_args.row_len", "256", "--data.init_args.batch_size", "16", "--trainer.max_steps", str(steps),
         "--trainer.val_check_interval", str(max(1, steps // 4)), "--trainer.limit_val_batches", "4",
         "--model.init_args.tuning", "full", "--model.init_args.embeddings", "full"]
    )  # fmt: skip
    export.main(["--checkpoint", str(folder / "run"), "--output", str(folder / "base"), "--dtype", "float32"])


def make_zeros(folder: Path, tokens: int) -> Figures:
    """Makes a Zero model with each initialization; returns the figures of their reports."""
    headings = ["init", *(f"{lang} bits/char" for lang in MIX), *(f"{lang} mass" for lang in MIX)]
    table = Figures("Before training", [*headings, "on top", "head copies", "rows shared", "CPU s"])
    for init in get_args(Init):
        start = time.process_time()
        held_out = [f"{lang}={folder}/{lang}.held_out.jsonl" for lang in MIX]
        report = resize_embeddings.resize_embeddings(
            str(folder / "base"), str(folder / "tokenizer"), str(folder / init), init, check_greedy=init != "random",
            text=[*held_out, f"ja={folder}/ja.pieces.jsonl"], check_characters=CHECKED,
            calibration_tokens=tokens, device="cpu", overwrite=True
        )  # fmt: skip
        seconds = time.process_time() - start
        texts, copies = report["texts"], report["row_copies"]
        assert isinstance(texts, dict) and isinstance(copies, dict)
        found = [texts[lang] for lang in MIX]
        if not table.rows:
            table.rows.append(["base", *(f"{text['base_bits_per_char']:.3f}" for text in found), *["–"] * 7])
        bits = [
            f"{text['zero_bits_per_char']:.3f} ({text['zero_bits_per_char'] / text['base_bits_per_char'] - 1:+.1%})"
            for text in found
        ]
        masses = [f"{text['mass_of_new']:.1%}" for text in found]
        top = sum(text["new_on_top"] for lang, text in texts.items() if lang != "ja")
        shared = [f"{copies['head']['of_old_rows']:,}", f"{copies['both']['shared']:,}"]
        table.rows.append([init, *bits, *masses, f"{top:,}", *shared, f"{seconds:.0f}"])
    return table


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _up_to(documents: Iterator[str], size: int) -> Iterator[str]:
    """Yields documents until they have `size` characters."""
    while size > 0 and (text := next(documents, None)) is not None:
        size -= len(text)
        yield text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--output", type=Path, default=Path("/tmp/inits"), help="Folder for all files.")
    parser.add_argument("--base_steps", type=int, default=600, help="Steps of 4,096 tokens to train the base.")
    parser.add_argument("--width", type=int, default=128, help="Hidden size of the base.")
    parser.add_argument("--layers", type=int, default=3, help="Layers of the base.")
    parser.add_argument("--old_pieces", type=int, default=6000, help="Pieces of the base's vocabulary.")
    parser.add_argument("--new_pieces", type=int, default=2500, help="Japanese pieces to add.")
    parser.add_argument("--calibration_tokens", type=int, default=60_000, help="Tokens that `calibrated` reads.")
    options = parser.parse_args(args)
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "base").is_dir():
        split(options.data.resolve(), folder)
        train_base(folder, options.base_steps, options.width, options.layers, options.old_pieces)
    if not (folder / "tokenizer").is_dir():
        build_tokenizer.build_tokenizer(
            str(folder / "base"),
            str(folder / "tokenizer"),
            corpus=[str(folder / "ja.pieces.jsonl")],
            num_new_pieces=options.new_pieces,
        )
    publish([make_zeros(folder, options.calibration_tokens)], options.markdown)


if __name__ == "__main__":
    main()
