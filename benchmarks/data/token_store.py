"""Measures tokenizing text into rows: `python -m benchmarks.data.token_store`.

Compares `TokenStore` with `datasets.map`, with the same number of processes, on one `.jsonl` of Japanese. The peers
use the fast tokenizer of the same vocabulary and write Arrow. `TokenStore` also hashes the file and reads its JSON;
the time that `load_dataset` takes to read it is shown separately. Each measurement runs in its own process, and
contenders take turns. With `--llamafactory`, LLaMA-Factory is measured too; its rows also hold an attention mask.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.harness.turns import alternate
from data_modules.sources import TextSource
from data_modules.stores.token_store import TokenStore
from glmja.build_tokenizer import build_tokenizer
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.tokenization.huggingface import load_backend

ROW_LEN = 1024
OURS = "TokenStore"
TWO_MAPS, ONE_MAP = "two maps", "one map"
LLAMA_FACTORY = "LLaMA-Factory"
LLAMA_FACTORY_SCRIPT = Path(__file__).resolve().with_name("llamafactory_peer.py")
BATCH_SIZES = (10, 100, 1000)


def cpu_seconds() -> float:
    """Returns the processor time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure_store(text: Path, tokenizer_dir: Path, scratch: Path, num_workers: int) -> dict[str, float]:
    """Measures `TokenStore`."""
    tokenizer = load_tokenizer(tokenizer_dir)
    source = TextSource("ja", "ja", [str(text)])
    start, before = time.perf_counter(), cpu_seconds()
    store = TokenStore.of(source, tokenizer, scratch, num_workers)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "with_loading": seconds,
        "cpu": cpu_seconds() - before,
        "tokens": int(store.starts[-1]),
    }


def measure_map(
    text: Path, tokenizer_dir: Path, scratch: Path, num_workers: int, batch_size: int, name: str
) -> dict[str, float]:
    """Measures `datasets.map`: one map, or two as in transformers' `run_clm.py`."""
    import datasets  # noqa: PLC0415  # would count in the memory of TokenStore
    from transformers import AutoTokenizer  # noqa: PLC0415

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, split_special_tokens=True, model_max_length=1 << 30)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]}

    def group(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = list(chain.from_iterable(batch["input_ids"]))
        return {"input_ids": [ids[i : i + ROW_LEN] for i in range(0, len(ids) - ROW_LEN + 1, ROW_LEN)]}

    def both(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return group(tokenize(batch))

    beginning = time.perf_counter()
    made = datasets.load_dataset("json", data_files=str(text), split="train", cache_dir=str(scratch))
    steps = [both] if name == ONE_MAP else [tokenize, group]
    start, before = time.perf_counter(), cpu_seconds()
    for i, step in enumerate(steps):
        made = made.map(
            step, batched=True, batch_size=batch_size, num_proc=num_workers, remove_columns=made.column_names,
            cache_file_name=str(scratch / f"{i}.arrow"),
        )  # fmt: skip
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "with_loading": end - beginning,
        "cpu": cpu_seconds() - before,
        "tokens": len(made) * ROW_LEN,
    }


def prove_same_ids(text: Path, tokenizer_dir: Path, scratch: Path, num_workers: int) -> int:
    """Checks that the store holds the fast tokenizer's ids of every document; returns the number of ids.

    Raises:
        AssertionError: If they differ.
    """
    tokenizer, backend = load_tokenizer(tokenizer_dir), load_backend(tokenizer_dir)
    store = TokenStore.of(TextSource("ja", "ja", [str(text)]), tokenizer, scratch, num_workers)
    for i, document in enumerate(read_documents([text])):
        expected = [*backend.encode(document, add_special_tokens=False).ids, tokenizer.eos_id]
        assert np.array_equal(store.tokens[store.starts[i] : store.starts[i + 1]], expected), i
    assert len(store.lengths) == i + 1
    return int(store.starts[-1])


def tree(pid: int) -> list[int]:
    """Returns the ids of a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [pid, *chain.from_iterable(tree(int(child)) for child in children)]


def proportional_bytes(pid: int) -> int:
    """Returns the proportional set size of a process: a page shared by n processes counts 1/n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def run(name: str, settings: argparse.Namespace, scratch: Path, watch: bool = False, **options: Any) -> dict[str, Any]:
    """Measures a contender in a new process.

    Args:
        name: Contender.
        settings: Arguments of the command line.
        scratch: Folder with the text and the tokenizer.
        watch: Whether to sample the peak memory of the process and its descendants.
        options: More flags for the process.
    """
    flags = [f"--{key}={value}" for key, value in options.items()]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        command = [sys.executable, "-m", "benchmarks.data.token_store", "--measure", name]
        if name == LLAMA_FACTORY:  # -P: without this folder on its path
            command = [str(settings.llamafactory), "-P", str(LLAMA_FACTORY_SCRIPT), "--row_len", str(ROW_LEN)]
        command += ["--scratch", folder, "--workers", str(settings.workers)]
        command += ["--text", str(scratch / "ja.jsonl"), "--tokenizer", str(scratch / "tokenizer"), *flags]
        # datasets.map turns the threads of tokenizers off in its processes, whatever is set here
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        peak = 0
        while watch and process.poll() is None:
            peak = max(peak, sum(map(proportional_bytes, tree(process.pid))))
            time.sleep(0.02)
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"measuring {name} failed")
        return json.loads(out.splitlines()[-1]) | {"peak": peak}


def speeds(settings: argparse.Namespace, scratch: Path) -> Figures:
    """Measures the speed of all contenders in turns."""
    megabytes = (scratch / "ja.jsonl").stat().st_size / 1e6
    trials = {
        size: min(run(ONE_MAP, settings, scratch, batch_size=size)["seconds"] for _ in range(2)) for size in BATCH_SIZES
    }
    best = {"batch_size": min(trials, key=lambda size: trials[size])}
    contenders: dict[str, dict[str, Any]] = {
        f"datasets.map, {TWO_MAPS} (run_clm), defaults": {"name": TWO_MAPS},
        f"datasets.map, {ONE_MAP}, defaults": {"name": ONE_MAP},
        f"datasets.map, {ONE_MAP}, its best": {"name": ONE_MAP, **best},
        OURS: {"name": OURS},
    }
    if settings.llamafactory:
        contenders[f"{LLAMA_FACTORY} get_dataset, defaults"] = {"name": LLAMA_FACTORY}
        contenders[f"{LLAMA_FACTORY} get_dataset, as datasets.map's best"] = {"name": LLAMA_FACTORY, **best}
    runs: dict[str, list[dict[str, Any]]] = {label: [] for label in contenders}
    for label in alternate(contenders, settings.rounds):
        runs[label].append(run(settings=settings, scratch=scratch, **contenders[label]))
    rates, loaded = (
        {label: [r["tokens"] / r[key] / 1e6 for r in found] for label, found in runs.items()}
        for key in ("seconds", "with_loading")
    )
    table = Figures(
        f"{megabytes:.0f} MB of Japanese .jsonl to ids, {settings.workers} processes, {settings.rounds} rounds",
        ["", "million tokens/s", "slowest", "fastest", "times as fast, TokenStore", "with loading", "CPU seconds/MB"],
        notes=[
            f"Best of datasets.map: batch_size={best['batch_size']}, by the faster of two runs each of "
            + ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in trials.items())
            + ".",
            "Rates are medians, ratios those of the rounds. Default: batch_size=1000.",
        ],
    )
    versions = {r["versions"] for found in runs.values() for r in found if "versions" in r}
    table.notes.extend(f"{LLAMA_FACTORY} ran with {names}." for names in versions)
    for label, found in rates.items():
        ratios = [statistics.median(map(truediv, r[OURS], r[label])) for r in (rates, loaded)]  # round by round
        cpu = statistics.median(r["cpu"] for r in runs[label]) / megabytes
        cells = [f"{value:.2f}" for value in (statistics.median(found), min(found), max(found))]
        table.rows.append([label, *cells, *(f"{ratio:.2f}" for ratio in ratios), f"{cpu:.3f}"])
    return table


def memory(settings: argparse.Namespace, scratch: Path) -> Figures:
    """Measures the peak memory of `TokenStore` for a quarter of the corpus and for all of it."""
    table = Figures(
        "Peak memory of TokenStore, parent and workers together", ["corpus", "million tokens", "peak MB"],
        notes=["Sum of the proportional set sizes, sampled every 20 ms. Includes torch in the parent."],
    )  # fmt: skip
    lines = (scratch / "ja.jsonl").read_bytes().splitlines(keepends=True)
    (scratch / "quarter.jsonl").write_bytes(b"".join(lines[: len(lines) // 4]))
    for label, name in (("a quarter", "quarter"), ("all", "ja")):
        found = run(OURS, settings, scratch, watch=True, text=scratch / f"{name}.jsonl")
        table.rows.append([label, f"{found['tokens'] / 1e6:.1f}", f"{found['peak'] / 1e6:.0f}"])
    return table


def compare(settings: argparse.Namespace, scratch: Path) -> list[Figures]:
    """Makes all tables."""
    corpus = settings.data.resolve() / "text" / "ja.jsonl.gz"
    build_tokenizer(str(settings.data.resolve() / "chatglm3_tiny"), str(scratch / "tokenizer"), corpus=[str(corpus)])
    with gzip.open(corpus) as file, (scratch / "ja.jsonl").open("wb") as out:
        while out.tell() < settings.megabytes * 1e6 and (line := file.readline()):
            out.write(line)
    num_ids = prove_same_ids(scratch / "ja.jsonl", scratch / "tokenizer", scratch / "proof", settings.workers)
    table = speeds(settings, scratch)
    table.notes.append(f"All {num_ids:,} ids are those of the fast tokenizer, document by document.")
    return [table, memory(settings, scratch)]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, rounds=3, data=True, scratch=True)
    parser.add_argument("--megabytes", type=float, default=50, help="Size of the text in MB.")
    parser.add_argument("--workers", type=int, default=2, help="Number of processes of each contender.")
    parser.add_argument(
        "--llamafactory", type=Path, metavar="PYTHON",
        help="Interpreter of an environment with LLaMA-Factory 0.9.5 (see benchmarks/data/llamafactory_peer.py).",
    )  # fmt: skip
    parser.add_argument("--measure", choices=[OURS, ONE_MAP, TWO_MAPS], help="Measure one contender and print JSON.")
    parser.add_argument("--text", type=Path, help="Used by --measure.")
    parser.add_argument("--tokenizer", type=Path, help="Used by --measure.")
    parser.add_argument("--batch_size", type=int, default=1000, help="Used by --measure.")
    options = parser.parse_args(args)
    if options.measure == OURS:
        print(json.dumps(measure_store(options.text, options.tokenizer, options.scratch, options.workers)))
    elif options.measure:
        place = (options.text, options.tokenizer, options.scratch)
        print(json.dumps(measure_map(*place, options.workers, options.batch_size, options.measure)))
    else:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            tables = compare(options, Path(scratch))
        publish([machine(["datasets", "tokenizers", "sentencepiece"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
