"""`python -m glmja.demo`: the whole pipeline on a laptop twin, from the texts that ship with the package."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from glmja import build_tokenizer, chat, evaluate, export, fit, resize_embeddings
from glmja.cli.command import run_command
from glmja.files.documents import read_documents
from glmja.files.output_folder import check_free

CONFIGS = Path(__file__).parents[1] / "configs"

PARTS = (
    "texts", "base", "tokenizer", "zero", "zero_test", "token_store", "pretrain", "pretrained", "sft", "chat",
    "evaluation",
)  # fmt: skip

_HELD_OUT_EVERY = 10  # documents; nothing trains on these


def demo(
    output: str = "demo", pretrain_steps: int = 200, sft_steps: int = 100, overwrite: bool = False
) -> dict[str, Any]:
    """Builds a tiny ChatGLM3, gives it Japanese, teaches it to answer, and judges it; two minutes on two cores.

    Args:
        output: New folder for everything: base, tokenizer, models and runs.
        pretrain_steps: Optimizer steps of the pretraining.
        sft_steps: Optimizer steps of the fine-tuning on conversations.
        overwrite: Replace the demo that `output` holds.

    Returns:
        The reports of the steps, and the scores at the end.

    Raises:
        ValueError: If `output` is not free, or a step fails.
    """
    from glmja.twin import build as twin

    check_free(output, overwrite)
    folder, start = Path(output), time.monotonic()
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    texts = {name: _split(name, folder / "texts") for name in (*twin.LANGUAGES, "conversations")}
    train = {language: texts[language][0] for language in twin.LANGUAGES}
    held_out = [f"{language}={texts[language][1]}" for language in twin.LANGUAGES]

    _announce("A tiny ChatGLM3 in its original layout: Chinese and English pieces, random weights.")
    twin.build_base(folder / "base", read_documents([train["zh"], train["en"]]))

    _announce(
        "Japanese pieces for its tokenizer, and the proof that other text is tokenised as before.",
        "python -m glmja.build_tokenizer --base chatglm3-6b --corpus ja.jsonl.gz --output models/tokenizer "
        "--check ja=ja.jsonl.gz zh=zh.jsonl.gz en=en.jsonl.gz",
    )
    tokenizer_report = build_tokenizer.main(
        ["--base", f"{folder}/base", "--corpus", train["ja"], "--num_new_pieces", "600",
         "--output", f"{folder}/tokenizer", "--check", *held_out]
    )  # fmt: skip

    _announce(
        "Rows for the new pieces: the Zero model, which speaks as before and has yet to learn Japanese.",
        "python -m glmja.resize_embeddings --base chatglm3-6b --tokenizer models/tokenizer --output models/zero",
    )
    resize_report = resize_embeddings.main(
        ["--base", f"{folder}/base", "--tokenizer", f"{folder}/tokenizer", "--output", f"{folder}/zero"]
    )

    _announce(
        "Zero beside its base: the same answers to Chinese, fewer tokens for Japanese, which it has yet to learn.",
        "python -m glmja.evaluate --model models/zero --baseline chatglm3-6b --output models/zero_test",
    )
    zero_test = evaluate.main(
        ["--model", f"{folder}/zero", "--baseline", f"{folder}/base", "--output", f"{folder}/zero_test",
         "--max_new_tokens", "16"]
    )  # fmt: skip

    _announce(
        "Pretraining on packed rows, low-rank adapters and embeddings.",
        "python -m glmja.fit --config configs/pretrain.yaml --config configs/presets/zero2.yaml",
    )
    sources = [_source(language, language, texts[language]) for language in twin.LANGUAGES]
    _fit("demo_pretrain", folder, "pretrain", "zero", sources, pretrain_steps)
    export.main(["--checkpoint", f"{folder}/pretrain", "--output", f"{folder}/pretrained"])

    _announce(
        "Fine-tuning on conversations.",
        "python -m glmja.fit --config configs/sft.yaml --config configs/presets/zero2.yaml",
    )
    chats = _source("chats", "all", texts["conversations"])
    _fit("demo_sft", folder, "sft", "pretrained", [chats], sft_steps)
    export.main(["--checkpoint", f"{folder}/sft", "--output", f"{folder}/chat"])

    _announce(
        "What it learnt and what it kept, on text that nothing was trained on.",
        "python -m glmja.evaluate --model models/chat --baseline chatglm3-6b --text ja=ja.jsonl zh=zh.jsonl "
        "en=en.jsonl --generate ja=ja_chats.jsonl --runs runs/pretrain runs/sft --output models/evaluation",
    )
    scores = evaluate.evaluate(  # not its command line, which ends the program if retention failed
        model=f"{folder}/chat",
        output=f"{folder}/evaluation",
        baseline=f"{folder}/base",
        text=held_out,
        generate=_by_language(texts["conversations"][1]),
        runs=[f"{folder}/pretrain", f"{folder}/sft"],
        max_new_tokens=32,
    )

    _announce("A word with it.", f"python -m glmja.chat --model {shlex.quote(str(folder / 'chat'))}")
    for question in ("こんにちは。", "你好"):
        Console().print(f"> {question}")
        chat.main(["--model", f"{folder}/chat", "--prompt", question, "--max_new_tokens", "32", "--seed", "0"])

    _announce(f"Done in {time.monotonic() - start:.0f} s. What lies where:")
    Console().print(_places(folder))
    _announce("Curves and chats:", f"tensorboard --logdir {shlex.quote(str(folder))}")
    return {"tokenizer": tokenizer_report, "zero": resize_report, "zero_test": zero_test, "scores": scores}


def _split(name: str, folder: Path) -> tuple[str, str]:
    """Writes the records of a shipped text into two files: to train on, and held out."""
    from glmja.twin.build import text_file

    folder.mkdir(parents=True, exist_ok=True)
    lines = text_file(name).read_text(encoding="utf-8").splitlines(keepends=True)
    paths = folder / f"{name}.jsonl", folder / f"{name}.held_out.jsonl"
    train = [line for i, line in enumerate(lines) if i % _HELD_OUT_EVERY]
    for path, part in zip(paths, (train, lines[::_HELD_OUT_EVERY]), strict=True):
        path.write_text("".join(part), encoding="utf-8")
    return str(paths[0]), str(paths[1])


def _by_language(path: str) -> list[str]:
    """Writes conversations into a file for each language; LANG=FILE each."""
    records: dict[str, list[str]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines(keepends=True):
        records.setdefault(json.loads(line)["lang"], []).append(line)
    items = {lang: Path(path).with_suffix(f".{lang}.jsonl") for lang in sorted(records)}
    for lang, place in items.items():
        place.write_text("".join(records[lang]), encoding="utf-8")
    return [f"{lang}={place}" for lang, place in items.items()]


def _source(name: str, lang: str, paths: tuple[str, str]) -> dict[str, Any]:
    return {"name": name, "lang": lang, "files": [paths[0]], "val_files": [paths[1]]}


def _fit(recipe: str, folder: Path, name: str, model: str, sources: list[dict[str, Any]], max_steps: int) -> None:
    fit.main(
        ["--config", str(CONFIGS / f"{recipe}.yaml"), "--run_dir", f"{folder}/{name}",
         "--model.init_args.model_dir", f"{folder}/{model}", "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", f"{folder}/token_store", "--trainer.max_steps", str(max_steps)]
    )  # fmt: skip


def _places(folder: Path) -> Table:
    table = Table(show_header=False, box=None)
    for part, what in (
        ("chat", "the model; transformers loads it"),
        ("evaluation/report.html", "what it can, as a page"),
        ("zero_test/report.html", "Zero beside its base"),
        ("pretrain, sft", "the runs: curves, chats, checkpoints"),
        ("base, tokenizer, zero, pretrained", "what stood between"),
    ):
        table.add_row(", ".join(escape(str(folder / name)) for name in part.split(", ")), what)
    return table


def _announce(what: str, command: str | None = None) -> None:
    """Says what comes, and the command for the same step on the real model."""
    console = Console()
    console.print(f"\n[bold]{escape(what)}[/bold]")
    if command:
        console.print(f"[cyan]$ {escape(command)}[/cyan]", soft_wrap=True)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Runs the command line."""
    return run_command(demo, args)


if __name__ == "__main__":
    main()
