"""Measures a corpus that is one long line: `python -m benchmarks.tokenizer.long_line`.

The Japanese text of the data is repeated without line feeds up to each size, and `build_tokenizer` learns from it with
its defaults, in a process of its own.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import cost_of
from benchmarks.harness.tables import Figures, machine, publish


def write_line(source: Path, target: Path, num_bytes: int) -> None:
    """Writes texts of a JSON-lines file as one line of a number of bytes or a few more."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"].replace("\n", "").encode() for line in lines]
    written = 0
    with target.open("wb") as file:
        for text in cycle(texts):
            written += file.write(text)
            if written >= num_bytes:
                return


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True, scratch=True)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 100, 200], help="Sizes of the line.")
    options = parser.parse_args(args)
    data = options.data.resolve()
    table = Figures("One line of Japanese text through build_tokenizer", ["MB", "CPU s", "CPU s per MB", "peak GB"])
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for size in options.megabytes:
            print(f"{size} MB", flush=True)
            corpus, output = Path(scratch) / "line.txt", Path(scratch) / f"tokenizer_{size}"
            write_line(data / "text" / "ja.jsonl.gz", corpus, size * 10**6)
            flags = ["--base", str(data / "chatglm3"), "--corpus", str(corpus), "--output", str(output)]
            cost = cost_of([sys.executable, "-m", "glmja.build_tokenizer", *flags])
            seconds = f"{cost.cpu_seconds:.0f}", f"{cost.cpu_seconds / size:.2f}"
            table.rows.append([str(size), *seconds, f"{cost.peak_bytes / 1e9:.2f}"])
    publish([machine(["sentencepiece", "numpy"]), table], options.markdown)


if __name__ == "__main__":
    main()
