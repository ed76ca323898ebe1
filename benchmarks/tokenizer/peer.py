"""Compares `build_tokenizer` with another continued BPE: `python -m benchmarks.tokenizer.peer --peer PYTHON`.

The peer is the toolkit of arXiv 2512.03989. All learn from the same Japanese documents, a random part of those that
`benchmarks.tokenizer.compare` trains on, get the same number of pieces, and are measured on the text held out there.
The peer has no policy. So it stands beside our policy `none` as it comes, and beside `japanese` after the same filter:
it learns more pieces than needed, and the first that the policy admits are appended.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from benchmarks.harness.arguments import benchmark_parser
from benchmarks.harness.process_cost import Cost, cost_of
from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.tokenizer.compare import about, about_held_out, grow, rates, split
from benchmarks.tokenizer.effects import Sentences
from benchmarks.tokenizer.recipes import RECIPES, Recipe
from glmja.families.recognition import load_tokenizer
from glmja.tokenization import huggingface
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import append_pieces, is_admissible, unreachable_pieces

POLICY = "japanese"
OURS = Recipe("glmja", POLICY, join_punctuation=True)
FILTERED, AS_IT_COMES = f"peer, filtered for {POLICY}", "peer as it comes"
PEER_SCRIPT = Path(__file__).resolve().with_name("tokenizer_extension_peer.py")
LEARNED = "learned.json"
SEED, HELD_OUT_SHARE = 0, 0.1  # the defaults of `compare`


def take_part(training: Path, part: Path, num_characters: int) -> int:
    """Writes documents in random order until they have a number of characters.

    Args:
        training: JSON lines with a field `text`.
        part: The file to write, in the same format.
        num_characters: Number of characters to reach.

    Returns:
        The number of characters written.

    Raises:
        ValueError: If all documents together have fewer.
    """
    lines = training.read_bytes().splitlines(keepends=True)
    random.Random(SEED).shuffle(lines)
    taken = 0
    with part.open("wb") as out:
        for line in lines:
            out.write(line)
            taken += len(json.loads(line)["text"])
            if taken >= num_characters:
                return taken
    raise ValueError(f"the training documents have {taken:,} characters, fewer than {num_characters:,}")


def filter_and_cut(pieces: Iterable[str], base: spm.ModelProto, num_pieces: int) -> list[str]:
    """Returns the first pieces that the base lacks and the policy admits.

    Raises:
        ValueError: If there are fewer.
    """
    present = {piece.piece for piece in base.pieces}
    admitted = [piece for piece in pieces if piece not in present and is_admissible(piece, POLICY)]
    if len(admitted) < num_pieces:
        raise ValueError(f"the policy admits only {len(admitted)} pieces, not {num_pieces}; raise --surplus")
    return admitted[:num_pieces]


def grow_peer(python: Path, base: Path, text: Path, num_pieces: int, output: Path) -> Cost:
    """Runs the peer, which writes `tokenizer.model` and what it learned to a new folder."""
    print(f"learning: {output.name}", flush=True)
    output.mkdir()
    options = {"base": base, "text": text, "num_new_pieces": num_pieces, "output": output}
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return cost_of([str(python.absolute()), "-P", str(PEER_SCRIPT), *flags])  # -P: without this folder on its path


def grow_all(python: Path, base: Path, text: Path, num_pieces: int, surplus: float, scratch: Path) -> dict[str, Cost]:
    """Runs glmja and the peer in turns; returns the costs by the names of the folders in `scratch`, as in the table."""
    costs = {}
    for recipe, peer, number in (
        (OURS, FILTERED, round(num_pieces * (1 + surplus))),
        (Recipe("glmja", POLICY), AS_IT_COMES, num_pieces),
    ):
        costs[str(recipe)] = grow(recipe, base, text, num_pieces, scratch / str(recipe))
        costs[peer] = grow_peer(python, base, text, number, scratch / peer)
    for recipe in RECIPES:
        if recipe.kind == "glmja" and recipe.policy == "none":
            costs[str(recipe)] = grow(recipe, base, text, num_pieces, scratch / str(recipe))
    proto = load_tokenizer(base).proto
    learned = json.loads((scratch / FILTERED / LEARNED).read_text(encoding="utf-8"))["pieces"]
    GLMTokenizer(append_pieces(proto, filter_and_cut(learned, proto, num_pieces))).save(scratch / FILTERED)
    return costs


def row(folder: Path, cost: Cost, ours: Cost, held_out: dict[str, list[str]], others: dict[str, Sentences],
        num_old: int) -> list[str]:  # fmt: skip
    """Measures a tokenizer; its costs are also shown as multiples of glmja's."""
    print(f"measuring: {folder.name}", flush=True)
    tokenizer = load_tokenizer(folder)
    cells = [folder.name, f"{len(tokenizer) - num_old:,}", *rates(tokenizer, held_out)]
    for texts in others.values():
        changed, protected = texts.changed(tokenizer, POLICY)
        cells += [f"{100 * changed / len(texts.texts):.2f} %", f"{protected:,}"]
    cells.append(f"{len(unreachable_pieces(tokenizer.proto, num_old)):,}")
    cells += [f"{cost.cpu_seconds:.0f}", f"{cost.cpu_seconds / ours.cpu_seconds:.1f}"]
    return [*cells, f"{cost.peak_bytes / 1e9:.2f}", f"{cost.peak_bytes / ours.peak_bytes:.1f}"]


def compare(python: Path, data: Path, num_pieces: int, num_characters: int, surplus: float, scratch: Path) -> Figures:
    """Makes the table."""
    training, text, base = scratch / "training.jsonl", scratch / "part.jsonl", scratch / "base"
    held_out = split(data / "text" / "ja.jsonl.gz", training, HELD_OUT_SHARE, SEED)
    taken = take_part(training, text, num_characters)
    stock = load_tokenizer(data / "chatglm3")
    base.mkdir()
    huggingface.save(stock, base)
    costs = grow_all(python, base, text, num_pieces, surplus, scratch)
    others = {k: Sentences(data / "text" / f"{k}.jsonl.gz", stock, [POLICY]) for k in ("zh", "en")}
    versions = json.loads((scratch / FILTERED / LEARNED).read_text(encoding="utf-8"))["versions"]
    return Figures(
        f"{num_pieces:,} new pieces from {taken / 1e6:.1f} M characters: glmja and the toolkit of arXiv 2512.03989",
        ["tokenizer", "new pieces", "ja", "aozora", "wikipedia", "rest", "zh changed", "zh protected", "en changed",
         "en protected", "unreachable", "CPU s", "times glmja", "peak GB", "times glmja"],
        [row(scratch / name, cost, costs[str(OURS)], held_out, others, len(stock)) for name, cost in costs.items()],
        [about_held_out(held_out), *(about(language, texts) for language, texts in others.items()),
         f"The filtered list is that of {round(num_pieces * (1 + surplus)):,} learned pieces.",
         f"CPU seconds and memory are those of the whole process that learns. The peer ran with {versions}."],
    )  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True, scratch=True)
    parser.add_argument(
        "--peer", type=Path, required=True, metavar="PYTHON",
        help="Interpreter of the peer's environment (see benchmarks/tokenizer/tokenizer_extension_peer.py).",
    )  # fmt: skip
    parser.add_argument("--num_new_pieces", type=int, default=4_000, help="Number of pieces that each tokenizer gets.")
    parser.add_argument("--num_characters", type=int, default=3_000_000, help="Characters of text to learn from.")
    parser.add_argument("--surplus", type=float, default=0.15, help="Share of more pieces that the filter may reject.")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        table = compare(
            options.peer, options.data.resolve(), options.num_new_pieces, options.num_characters, options.surplus,
            Path(scratch).resolve(),
        )  # fmt: skip
    publish([machine(["sentencepiece", "tokenizers", "numpy"]), table], options.markdown)


if __name__ == "__main__":
    main()
