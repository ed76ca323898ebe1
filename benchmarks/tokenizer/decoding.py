"""Measures decoding with the decoder of `tokenizer.json`: `python -m benchmarks.tokenizer.decoding`.

The decoder that keeps whole characters beside cut ones is compared with the usual one of a vocabulary with byte pieces,
on the same ids of the shipped texts, in turns.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate, median_and_spread
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.tokenization.huggingface import tokenizer_json
from glmja.tokenization.vocabulary import WORD_BOUNDARY
from glmja.twin import build as twin

NUM_TOKENS, NUM_CALLS = 500, 20
USUAL, OURS = "usual decoder", "decoder of glmja"
_USUAL = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": WORD_BOUNDARY}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    options = benchmark_parser(__doc__, rounds=9).parse_args(args)
    title = f"Decoding {NUM_TOKENS} tokens, ms (minimum–maximum)"
    table = Figures(title, ["text", USUAL, OURS, "times as long"])
    texts = {language: "\n".join(read_documents([twin.text_file(language)])) for language in twin.LANGUAGES}
    with tempfile.TemporaryDirectory() as scratch:
        twin.build_base(Path(scratch) / "base", list(texts.values()))
        content = tokenizer_json(load_tokenizer(Path(scratch) / "base"))
    decoders = {OURS: content["decoder"], USUAL: _USUAL}
    made = {name: Tokenizer.from_str(json.dumps(content | {"decoder": d})) for name, d in decoders.items()}
    for language, text in texts.items():
        ids = made[OURS].encode(text).ids[:NUM_TOKENS]
        assert made[OURS].decode(ids) == made[USUAL].decode(ids)
        milliseconds: dict[str, list[float]] = {name: [] for name in made}
        for name in alternate(made, options.rounds):
            start = time.process_time()
            for _ in range(NUM_CALLS):
                made[name].decode(ids)
            milliseconds[name].append(1e3 * (time.process_time() - start) / NUM_CALLS)
        times = statistics.median(a / b for a, b in zip(milliseconds[OURS], milliseconds[USUAL], strict=True))
        table.rows.append([language, *(median_and_spread(milliseconds[n]) for n in (USUAL, OURS)), f"{times:.0f}"])
    publish([machine(["tokenizers"]), table], options.markdown)


if __name__ == "__main__":
    main()
