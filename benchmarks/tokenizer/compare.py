"""Compares ways to add Japanese to ChatGLM3's tokenizer: `python -m benchmarks.tokenizer.compare`.

Every recipe learns the same number of pieces from the same 90 % of the Japanese documents. Tokens per character are
measured on the other documents, and changed sentences on Chinese and English text. Then `tokenizer.json` is compared
with SentencePiece line by line. Takes about seven minutes on two cores.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import Cost, cost_of
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.tokenizer.effects import Agreement, Sentences, agreement, tokens_per_character
from benchmarks.tokenizer.recipes import RECIPES, Recipe
from glmja.families.recognition import load_tokenizer
from glmja.tokenization import huggingface
from glmja.tokenization.tokenizer import FILE_NAME, GLMTokenizer
from glmja.tokenization.vocabulary import unreachable_pieces

_POLICIES = ("japanese", "shinjitai", "kana")
_OTHER_LANGUAGES = ("zh", "en")


def split(path: Path, training: Path, held_out_share: float, seed: int) -> dict[str, list[str]]:
    """Writes the training documents to a file and returns the held-out ones, by kind."""
    rng = random.Random(seed)
    held_out: dict[str, list[str]] = {"aozora": [], "wikipedia": [], "rest": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines, training.open("w", encoding="utf-8") as out:
        for line in lines:
            record = json.loads(line)
            if rng.random() < held_out_share:
                held_out[_kind(record["source"])].append(record["text"])
            else:
                out.write(line)
    return held_out


def _kind(source: str) -> str:
    if source == "aozora":
        return "aozora"
    return "wikipedia" if "squad" in source or "jaquad" in source else "rest"  # JSQuAD, JaQuAD: Wikipedia passages


def grow(recipe: Recipe, base: Path, training: Path, num_new_pieces: int, output: Path) -> Cost:
    """Runs a recipe in its own process, which writes `tokenizer.model` to a new folder."""
    print(f"learning: {recipe}", flush=True)
    output.mkdir()
    options = {"recipe": RECIPES.index(recipe), "base": base, "text": training, "num_new_pieces": num_new_pieces,
               "output": output}  # fmt: skip
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return cost_of([sys.executable, "-m", "benchmarks.tokenizer.recipes", *flags])


def rates(tokenizer: GLMTokenizer, held_out: dict[str, list[str]]) -> list[str]:
    """Returns the tokens per held-out character, of all kinds together and of each."""
    groups = [[text for texts in held_out.values() for text in texts], *held_out.values()]
    return [f"{tokens_per_character(tokenizer, documents):.4f}" for documents in groups]


def row(name: str, folder: Path, policy: str | None, cost: Cost | None,
        held_out: dict[str, list[str]], others: dict[str, Sentences], num_old: int) -> list[str]:  # fmt: skip
    """Measures one tokenizer."""
    print(f"measuring: {name}", flush=True)
    tokenizer = load_tokenizer(folder)
    protects = policy if policy in _POLICIES else "japanese"
    changed = [f"{count:,}" for texts in others.values() for count in texts.changed(tokenizer, protects)]
    spent = [f"{cost.seconds:.0f}", f"{cost.peak_bytes / 1e9:.2f}"] if cost else ["–", "–"]
    unreachable = f"{len(unreachable_pieces(tokenizer.proto, num_old)):,}"
    return [name, f"{len(tokenizer) - num_old:,}", *rates(tokenizer, held_out), *changed, unreachable, *spent]


def agreement_table(folder: Path, data: Path) -> Figures:
    """Compares `tokenizer.json` with SentencePiece."""
    table = Figures(
        "Lines on which tokenizer.json and SentencePiece differ",
        ["text", "lines", "control names parsed", "of these with such a name in the line", "control names split"],
        notes=["The tokenizer is `glmja, japanese, punctuation`. Parsed: Hugging Face's default. Split: "
               "`split_special_tokens=True`, as GLMTokenizer always does."],
    )  # fmt: skip
    huggingface.save(load_tokenizer(folder), folder)
    for language in ("ja", *_OTHER_LANGUAGES):
        print(f"comparing lines: {language}", flush=True)
        found: Agreement = agreement(folder, data / "text" / f"{language}.jsonl.gz")
        counts = (found.lines, found.parsed, found.parsed_with_name, found.split)
        table.rows.append([language, *(f"{count:,}" for count in counts)])
    return table


def compare(data: Path, num_new_pieces: int, held_out_share: float, seed: int, scratch: Path) -> list[Figures]:
    """Makes all tables."""
    training = scratch / "training.jsonl"
    held_out = split(data / "text" / "ja.jsonl.gz", training, held_out_share, seed)
    base = data / "chatglm3"
    grown = {str(r): (r.policy, grow(r, base, training, num_new_pieces, scratch / str(r))) for r in RECIPES}
    stock = load_tokenizer(base)
    published = scratch / "published"
    published.mkdir()
    shutil.copy(data / "reference" / "cn_and_ja.model", published / FILE_NAME)
    others = {k: Sentences(data / "text" / f"{k}.jsonl.gz", stock, _POLICIES) for k in _OTHER_LANGUAGES}
    table = Figures(
        f"{num_new_pieces:,} new pieces: tokens per held-out Japanese character, and sentences that change",
        ["recipe", "new pieces", "ja", "aozora", "wikipedia", "rest", "zh changed", "zh protected", "en changed",
         "en protected", "unreachable", "seconds", "peak GB"],
    )  # fmt: skip
    contenders = {**grown, "published merge": (None, None), "stock ChatGLM3": (None, None)}
    folders = {"published merge": published, "stock ChatGLM3": base}
    for name, (policy, cost) in contenders.items():
        folder = folders.get(name, scratch / name)
        table.rows.append(row(name, folder, policy, cost, held_out, others, len(stock)))
    table.notes += [
        about_held_out(held_out),
        *(about(language, texts) for language, texts in others.items()),
        "Protected: changed sentences without a distinguishing character of the recipe's policy (`japanese` where it "
        "has none). Seconds and memory are those of the whole training process.",
    ]
    return [table, agreement_table(scratch / str(RECIPES[0]), data)]


def about_held_out(held_out: dict[str, list[str]]) -> str:
    """Describes the documents to measure on."""
    characters = {kind: sum(map(len, texts)) for kind, texts in held_out.items()}
    return "Held out: " + ", ".join(f"{kind} {count:,} characters" for kind, count in characters.items()) + "."


def about(language: str, texts: Sentences) -> str:
    """Describes the sentences of a language."""
    protected = ", ".join(f"{sum(flags):,} under {policy}" for policy, flags in texts.protected.items())
    return f"{language}: {len(texts.texts):,} sentences, protected {protected}."


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--num_new_pieces", type=int, default=13_756, help="Number of pieces that each recipe adds.")
    parser.add_argument("--held_out_share", type=float, default=0.1, help="Share of the documents to measure on.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the split.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        tables = compare(
            options.data.resolve(), options.num_new_pieces, options.held_out_share, options.seed, Path(scratch)
        )
    publish([machine(["sentencepiece", "tokenizers", "transformers", "numpy"]), *tables], options.markdown)


if __name__ == "__main__":
    main()
