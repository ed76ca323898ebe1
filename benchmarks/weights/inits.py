"""Measures initializations of new embedding rows before any training: `python -m benchmarks.weights.inits`.

The base and the tokenizer are those of `benchmarks.proof`, made here if they are not there: the base knows Japanese
spelled by its own short pieces, as ChatGLM3 does. `resize_embeddings` makes a Zero model with each initialization. Bits
per character are those of the proof's held-out windows; the other figures come from the report of the command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, publish
from benchmarks.proof.curve import read_windows, window_bits
from benchmarks.proof.models import WINDOWS, prepare
from benchmarks.proof.settings import LANGUAGES, NARROW
from glmja import resize_embeddings
from glmja.families.recognition import load_tokenizer
from glmja.modeling.loading import load_model
from glmja.weights.options import Init

CHECKED = 40_000  # characters of each held-out text that are read


def make_zeros(work: Path) -> Figures:
    """Makes a Zero model with each initialization; returns what it does to the windows and to the text of the check."""
    headings = ["init", *(f"{lang} bits/char" for lang in LANGUAGES), *(f"{lang} mass" for lang in LANGUAGES)]
    table = Figures("Before training", [*headings, "on top", "head copies", "rows shared", "CPU s"])
    base = _bits_per_character(work, work / "base")
    table.rows.append(["base", *(f"{base[lang]:.3f}" for lang in LANGUAGES), *["–"] * 7])
    for init in get_args(Init):
        start, folder = time.process_time(), work / "inits" / init
        held_out = [f"{lang}={work}/texts/{lang}.held_out.jsonl" for lang in LANGUAGES]
        report = resize_embeddings.resize_embeddings(
            str(work / "base"), str(work / "ours"), str(folder), init, check_greedy=init != "random",
            text=[*held_out, f"ja={work}/texts/ja.train.jsonl"], check_characters=CHECKED,
            calibration_tokens=NARROW.calibration_tokens, device="cpu", overwrite=True
        )  # fmt: skip
        seconds = time.process_time() - start
        checked, copies = report["texts"], report["row_copies"]
        assert isinstance(checked, dict) and isinstance(copies, dict)
        zero = _bits_per_character(work, folder)
        bits = [f"{zero[lang]:.3f} ({zero[lang] / base[lang] - 1:+.1%})" for lang in LANGUAGES]
        masses = [f"{checked[lang]['mass_of_new']:.1%}" for lang in LANGUAGES]
        top = sum(text["new_on_top"] for lang, text in checked.items() if lang != "ja")
        shared = [f"{copies['head']['of_old_rows']:,}", f"{copies['both']['shared']:,}"]
        table.rows.append([init, *bits, *masses, f"{top:,}", *shared, f"{seconds:.0f}"])
    return table


def _bits_per_character(work: Path, model: Path) -> dict[str, float]:
    """Returns the bits per character of the proof's windows."""
    windows = read_windows(work / WINDOWS)
    found = window_bits(load_model(model), load_tokenizer(model), windows)
    return {lang: sum(bits) / sum(len(cut.predicted) for cut in windows[lang]) for lang, bits in found.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--output", type=Path, default=Path("/tmp/proof_128"), help="Folder of the proof's models.")
    options = parser.parse_args(args)
    prepare(options.output, options.data.resolve(), NARROW)
    publish([make_zeros(options.output)], options.markdown)


if __name__ == "__main__":
    main()
