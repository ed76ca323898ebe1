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

from glmja import build_tokenizer, export, fit, resize_embeddings, twin
from glmja.command import run
from glmja.corpus import read_documents
from glmja.output_folder import check_free
from glmja.run_folder import last_scores

CONFIGS = Path(__file__).parents[1] / "configs"

PARTS = ("base", "tokenizer", "zero", "token_store", "pretrain", "pretrained", "sft", "chat")


def demo(
    output: str = "demo", pretrain_steps: int = 200, sft_steps: int = 100, overwrite: bool = False
) -> dict[str, Any]:
    """Builds a tiny ChatGLM3, gives it Japanese, and teaches it to answer; about two minutes on two cores.

    Args:
        output: New folder for everything: base, tokenizer, models and runs.
        pretrain_steps: Optimizer steps of the pretraining.
        sft_steps: Optimizer steps of the fine-tuning on conversations.
        overwrite: Replace the demo that `output` holds.

    Returns:
        The reports of the steps, and bits per character before and after.

    Raises:
        ValueError: If `output` is not free, or a step fails.
    """
    check_free(output, overwrite)
    folder, start = Path(output), time.monotonic()
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    texts = {language: str(twin.text_file(language)) for language in twin.LANGUAGES}

    _announce("A tiny ChatGLM3 in its original layout: Chinese and English pieces, random weights.")
    twin.build_base(folder / "base", read_documents([texts["zh"], texts["en"]]))

    _announce(
        "Japanese pieces for its tokenizer, and the proof that other text is tokenised as before.",
        "python -m glmja.build_tokenizer --base chatglm3-6b --corpus ja.jsonl.gz --output models/tokenizer "
        "--check ja=ja.jsonl.gz zh=zh.jsonl.gz en=en.jsonl.gz",
    )
    checks = [f"{language}={path}" for language, path in texts.items()]
    tokenizer_report = build_tokenizer.main(
        ["--base", f"{folder}/base", "--corpus", texts["ja"], "--num_new_pieces", "600",
         "--output", f"{folder}/tokenizer", "--check", *checks]
    )  # fmt: skip

    _announce(
        "Rows for the new pieces: the Zero model, which speaks as before and has yet to learn Japanese.",
        "python -m glmja.resize_embeddings --base chatglm3-6b --tokenizer models/tokenizer --output models/zero",
    )
    resize_report = resize_embeddings.main(
        ["--base", f"{folder}/base", "--tokenizer", f"{folder}/tokenizer", "--output", f"{folder}/zero"]
    )

    _announce(
        "Pretraining on packed rows, low-rank adapters and embeddings.",
        "python -m glmja.fit --config configs/pretrain.yaml --config configs/presets/zero2.yaml",
    )
    sources = [{"name": language, "lang": language, "files": [path]} for language, path in texts.items()]
    _fit("demo_pretrain", folder, "pretrain", "zero", sources, pretrain_steps)
    before, after = (last_scores(folder / "pretrain", step) for step in (0, pretrain_steps))
    export.main(["--checkpoint", f"{folder}/pretrain", "--output", f"{folder}/pretrained"])

    _announce(
        "Fine-tuning on conversations.",
        "python -m glmja.fit --config configs/sft.yaml --config configs/presets/zero2.yaml",
    )
    chats = [{"name": "chats", "lang": "all", "files": [str(twin.text_file("conversations"))]}]
    _fit("demo_sft", folder, "sft", "pretrained", chats, sft_steps)
    export.main(["--checkpoint", f"{folder}/sft", "--output", f"{folder}/chat"])

    scores = {lang: (before[f"val/{lang}/bits_per_char"], after[f"val/{lang}/bits_per_char"]) for lang in texts}
    Console().print(_scores_table(scores))
    _announce(
        f"Done in {time.monotonic() - start:.0f} s; the model is {folder / 'chat'}. See curves and chats:",
        f"tensorboard --logdir {shlex.quote(str(folder))}",
    )
    return {"tokenizer": tokenizer_report, "zero": resize_report, "bits_per_char": scores}


def _fit(recipe: str, folder: Path, name: str, model: str, sources: list[dict[str, Any]], max_steps: int) -> None:
    fit.main(
        ["--config", str(CONFIGS / f"{recipe}.yaml"), "--run_dir", f"{folder}/{name}",
         "--model.init_args.model_dir", f"{folder}/{model}", "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", f"{folder}/token_store", "--trainer.max_steps", str(max_steps)]
    )  # fmt: skip


def _scores_table(scores: dict[str, tuple[float, float]]) -> Table:
    table = Table("bits per character of held-out text", title="what pretraining gave")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for language, values in scores.items():
        table.add_row(language, *(f"{value:.3f}" for value in values))
    return table


def _announce(what: str, command: str | None = None) -> None:
    """Says what comes, and the command for the same step on the real model."""
    console = Console()
    console.print(f"\n[bold]{escape(what)}[/bold]")
    if command:
        console.print(f"[cyan]$ {escape(command)}[/cyan]", soft_wrap=True)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Runs the command line."""
    return run(demo, args)


if __name__ == "__main__":
    main()
