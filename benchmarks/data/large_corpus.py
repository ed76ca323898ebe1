"""Measures a corpus of gigabytes, tokenized and learned from: `python -m benchmarks.data.large_corpus`.

The corpus repeats the Japanese, Chinese and English texts of the data folder, each document cut at another place and
numbered, so that none is equal to another. Each size is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.data.token_store import OURS, run
from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import cost_of
from benchmarks.harness.tables import Figures, machine, publish

LANGUAGES = ("ja", "zh", "en")
ALL_TOKENS = 10**12  # no sample is drawn


def documents(data: Path, languages: Sequence[str]) -> Iterator[str]:
    """Yields JSON lines indefinitely."""
    texts = []
    for language in languages:
        with gzip.open(data / "text" / f"{language}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    for number in itertools.count():
        for i, text in enumerate(texts):
            cut = (number * 7919 + i) % max(1, len(text))
            yield json.dumps({"text": f"{number}.{i} {text[cut:]}{text[:cut]}"}, ensure_ascii=False) + "\n"


def write_corpus(path: Path, data: Path, languages: Sequence[str], gigabytes: float) -> None:
    """Writes a `.jsonl` of that size."""
    with path.open("wb") as file:
        for line in documents(data, languages):
            file.write(line.encode())
            if file.tell() >= gigabytes * 1e9:
                break


def tokenizing(settings: argparse.Namespace, scratch: Path) -> Figures:
    """Measures the store of the smaller and the larger corpus."""
    table = Figures(
        f"Tokenizing ja, zh and en .jsonl with {settings.workers} processes",
        ["GB", "million tokens", "seconds", "CPU s/GB", "peak MB"],
        notes=["The peak is the sum of the proportional set sizes of all processes, sampled every 20 ms."],
    )
    command = ["--corpus", str(settings.data / "text" / "ja.jsonl.gz"), "--output", str(scratch / "tokenizer")]
    base = str(settings.data / "chatglm3_tiny")
    cost_of([sys.executable, "-m", "glmja.build_tokenizer", "--base", base, *command])
    for gigabytes in settings.gigabytes:
        path = scratch / "corpus.jsonl"
        write_corpus(path, settings.data, LANGUAGES, gigabytes)
        found = run(OURS, settings, scratch, watch=True, text=path)
        cells = [found["tokens"] / 1e6, found["seconds"], found["cpu"] / gigabytes, found["peak"] / 1e6]
        table.rows.append([f"{gigabytes:g}", *(f"{value:,.0f}" for value in cells)])
        path.unlink()
    return table


def learning(settings: argparse.Namespace, scratch: Path) -> Figures:
    """Measures `build_tokenizer` on Japanese text, from a sample and from the whole."""
    table = Figures(
        f"build_tokenizer on {settings.learn_gigabytes:g} GB of Japanese .jsonl", ["learns from", "seconds", "peak MB"]
    )
    path = scratch / "ja.jsonl"
    write_corpus(path, settings.data, ["ja"], settings.learn_gigabytes)
    base = str(settings.data / "chatglm3_tiny")
    whole = [("all of it", [f"--max_training_tokens={ALL_TOKENS}"])] if settings.whole else []
    for name, flags in [("a sample (default)", list[str]()), *whole]:
        command = ["--base", base, "--corpus", str(path), "--output", str(scratch / name.replace(" ", "_"))]
        cost = cost_of([sys.executable, "-m", "glmja.build_tokenizer", *command, *flags])
        table.rows.append([name, f"{cost.seconds:,.0f}", f"{cost.peak_bytes / 1e6:,.0f}"])
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True, scratch=True)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 5], help="Sizes to tokenize.")
    parser.add_argument("--learn_gigabytes", type=float, default=1, help="Size of the corpus to learn pieces from.")
    parser.add_argument("--whole", action="store_true", help="Also learn from all of it: 40 bytes of memory per token.")
    parser.add_argument("--workers", type=int, default=2, help="Number of processes that tokenize.")
    settings = parser.parse_args(args)
    settings.data, settings.llamafactory = settings.data.resolve(), None
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        tables = [tokenizing(settings, Path(scratch)), learning(settings, Path(scratch))]
    publish([machine(["sentencepiece", "numpy"]), *tables], settings.markdown)


if __name__ == "__main__":
    main()
