"""Measures batched evaluation against one prompt at a time: `python -m benchmarks.inference.batching`.

Answers and likelihoods are computed with several batch sizes in turns, and asserted to be equal.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.tiny_glm import text_files, write_model
from glmja.conversation.messages import Message
from glmja.conversation.replies import generate
from glmja.evaluation.likelihood import measure
from glmja.evaluation.questions import QUESTIONS
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.modeling.loading import load_model
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer

BATCH_SIZES = (1, 8, 32)


def answers(model: Any, tokenizer: GLMTokenizer, documents: list[str], batch_size: int) -> tuple[int, Any]:
    """Answers the eight questions and beginnings of documents greedily; returns the number of tokens and the ids."""
    texts = [*QUESTIONS, *(document[:60] for document in documents)][: max(BATCH_SIZES)]
    prompts: list[list[Message]] = [[{"role": "user", "content": text}] for text in texts]
    replies = generate(model, tokenizer, prompts, Sampling(32), batch_size=batch_size)
    return sum(len(reply.ids) for reply in replies), [reply.ids for reply in replies]


def likelihoods(model: Any, tokenizer: GLMTokenizer, documents: list[str], batch_size: int) -> tuple[int, Any]:
    """Measures bits per character of documents; returns the number of tokens and the bits."""
    found, _ = measure(model, tokenizer, documents, 512, batch_size)
    return found.tokens, round(found.bits_per_char, 3)


def compare(scratch: Path, num_rounds: int, num_documents: int) -> Figures:
    """Measures all batch sizes in turns."""
    write_model(scratch / "model")
    model, tokenizer = load_model(scratch / "model", torch.float32), load_tokenizer(scratch / "model")
    files = text_files()
    documents = [text[:800] for text, _ in zip(read_documents([files["ja"]]), range(num_documents), strict=False)]
    table = Figures(
        f"An evaluation, fp32, {torch.get_num_threads()} threads",
        ["", "batch size", "tokens/s", "times batch size 1"],
        notes=[f"Medians of {num_rounds} rounds; the ids of all answers are equal, and bits per character to 0.001."],
    )
    works: dict[str, Callable[..., tuple[int, Any]]] = {"greedy answers": answers, "likelihoods": likelihoods}
    for name, work in works.items():
        contenders = {size: partial(work, model, tokenizer, documents, size) for size in BATCH_SIZES}
        rates: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
        for number in range(num_rounds):
            results = []
            for size in BATCH_SIZES if number % 2 else reversed(BATCH_SIZES):
                start = time.perf_counter()
                count, result = contenders[size]()
                rates[size].append(count / (time.perf_counter() - start))
                results.append(result)
            assert all(result == results[0] for result in results), name
        medians = {size: statistics.median(found) for size, found in rates.items()}
        for size, rate in medians.items():
            table.rows.append([name, str(size), f"{rate:,.0f}", f"{rate / medians[1]:.2f}"])
    return table


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("--documents", type=int, default=60, help="Number of documents to measure.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        table = compare(Path(scratch), options.rounds, options.documents)
    publish([machine(["torch", "transformers"]), table], options.markdown)


if __name__ == "__main__":
    main()
