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

from glmja import build_tokenizer, fit, resize_embeddings, twin
from glmja.command import run
from glmja.corpus import read_documents
from glmja.output_folder import check_free

CONFIGS = Path(__file__).parents[1] / "configs"

_PARTS = ("base", "tokenizer", "zero", "token_store", "run")


def demo(output: str = "demo", max_steps: int = 120, overwrite: bool = False) -> dict[str, Any]:
    """Builds a tiny ChatGLM3, gives it Japanese pieces and rows, and pretrains it; a few minutes on two cores.

    Args:
        output: New folder for everything: base, tokenizer, Zero model, run.
        max_steps: Optimizer steps of the pretraining.
        overwrite: Replace the demo that `output` holds.

    Returns:
        The reports of the steps, and the validation metrics of the run.

    Raises:
        ValueError: If `output` is not free, or a step fails.
    """
    check_free(output, overwrite)
    folder, start = Path(output), time.monotonic()
    for part in _PARTS:
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
        "python -m glmja.fit --config configs/demo_pretrain.yaml --model.init_args.model_dir models/zero",
    )
    sources = [{"name": language, "lang": language, "files": [path]} for language, path in texts.items()]
    trainer = fit.main(
        ["--config", str(CONFIGS / "demo_pretrain.yaml"), "--run_dir", f"{folder}/run",
         "--model.init_args.model_dir", f"{folder}/zero", "--data.init_args.sources", json.dumps(sources),
         "--data.init_args.cache_dir", f"{folder}/token_store", "--trainer.max_steps", str(max_steps)]
    )  # fmt: skip
    _announce(
        f"Done in {time.monotonic() - start:.0f} s; everything lies in {folder}. See the curves:",
        f"tensorboard --logdir {shlex.quote(str(folder / 'run'))}",
    )
    return {
        "tokenizer": tokenizer_report,
        "zero": resize_report,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }


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
