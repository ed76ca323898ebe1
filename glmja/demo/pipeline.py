"""Runs the whole pipeline on a tiny model, with the texts that ship with the package: `python -m glmja.demo`."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from glmja import build_tokenizer, chat, evaluate, export, fit, resize_embeddings
from glmja.cli.command import run_command
from glmja.evaluation.scores import Scores
from glmja.files.documents import read_documents
from glmja.files.output_folder import check_free
from glmja.text.terminal import make_table, show

CONFIGS = Path(__file__).parents[2] / "configs"

PARTS = (
    "texts", "base", "tokenizer", "zero", "zero_test", "token_store", "pretrain", "pretrained", "sft", "chat",
    "evaluation",
)  # fmt: skip

_HELD_OUT_EVERY = 10  # every tenth document is held out from training


def demo(output: str = "demo", pretrain_steps: int = 200, sft_steps: int = 100, overwrite: bool = False) -> Scores:
    """Builds a tiny ChatGLM3, adds Japanese, fine-tunes it on conversations and evaluates it; 2 minutes on 2 cores.

    Args:
        output: New folder for all results: base model, tokenizer, models, runs and reports.
        pretrain_steps: Optimizer steps of pretraining.
        sft_steps: Optimizer steps of fine-tuning on conversations.
        overwrite: Replace the results of an earlier demo in `output`.

    Returns:
        The scores of the final model.

    Raises:
        ValueError: If `output` is not empty, or a step fails.
    """
    check_free(output, overwrite)
    start = time.monotonic()
    for part in PARTS:
        shutil.rmtree(Path(output) / part, ignore_errors=True)
    steps = _Demo(Path(output), _split_texts(Path(output) / "texts"))
    steps.build_base()
    steps.build_tokenizer()
    steps.resize_embeddings()
    steps.evaluate_zero()
    steps.pretrain(pretrain_steps)
    steps.fine_tune(sft_steps)
    scores = steps.evaluate()
    steps.chat()
    _announce(f"Done in {time.monotonic() - start:.0f} s. Results:")
    show(_results(Path(output)))
    _announce("Training curves and sampled answers:", f"tensorboard --logdir {shlex.quote(str(Path(output)))}")
    return scores


@dataclass(frozen=True)
class _Text:
    """The two parts of a shipped text."""

    train: str
    held_out: str


@dataclass(frozen=True)
class _Demo:
    """The steps of the demo; each reads the results of those before it in `folder`."""

    folder: Path
    texts: dict[str, _Text]  # of each language, and `conversations`

    def build_base(self) -> None:
        from glmja.twin.build import build_base

        _announce("A tiny ChatGLM3 in its original layout: Chinese and English tokens, random weights.")
        build_base(self.folder / "base", read_documents([self.texts["zh"].train, self.texts["en"].train]))

    def build_tokenizer(self) -> None:
        _announce(
            "Add Japanese tokens to the tokenizer, and verify that other text is tokenized as before.",
            "python -m glmja.build_tokenizer --base chatglm3-6b --corpus ja.jsonl.gz --output models/tokenizer "
            "--check ja=ja.jsonl.gz zh=zh.jsonl.gz en=en.jsonl.gz",
        )
        build_tokenizer.main(
            ["--base", f"{self.folder}/base", "--corpus", self.texts["ja"].train, "--num_new_pieces", "600",
             "--output", f"{self.folder}/tokenizer", "--check", *self._held_out()]
        )  # fmt: skip

    def resize_embeddings(self) -> None:
        _announce(
            "Add embedding rows for the new tokens: Zero, which answers as before and does not know Japanese yet.",
            "python -m glmja.resize_embeddings --base chatglm3-6b --tokenizer models/tokenizer --output models/zero",
        )
        resize_embeddings.main(
            ["--base", f"{self.folder}/base", "--tokenizer", f"{self.folder}/tokenizer",
             "--output", f"{self.folder}/zero"]
        )  # fmt: skip

    def evaluate_zero(self) -> None:
        _announce(
            "Compare Zero with its base: identical answers to Chinese, fewer tokens for Japanese.",
            "python -m glmja.evaluate --model models/zero --baseline chatglm3-6b --output models/zero_test",
        )
        evaluate.main(
            ["--model", f"{self.folder}/zero", "--baseline", f"{self.folder}/base",
             "--output", f"{self.folder}/zero_test", "--max_new_tokens", "16"]
        )  # fmt: skip

    def pretrain(self, max_steps: int) -> None:
        from glmja.twin.build import LANGUAGES

        _announce(
            "Pretrain on packed sequences: low-rank adapters and embeddings.",
            "python -m glmja.fit --config configs/pretrain.yaml --config configs/presets/zero2.yaml",
        )
        sources = [self._source(language, language, language) for language in LANGUAGES]
        self._fit("demo_pretrain", "pretrain", "zero", sources, max_steps)
        export.main(["--checkpoint", f"{self.folder}/pretrain", "--output", f"{self.folder}/pretrained"])

    def fine_tune(self, max_steps: int) -> None:
        _announce(
            "Fine-tune on conversations.",
            "python -m glmja.fit --config configs/sft.yaml --config configs/presets/zero2.yaml",
        )
        sources = [self._source("chats", "all", "conversations")]
        self._fit("demo_sft", "sft", "pretrained", sources, max_steps)
        export.main(["--checkpoint", f"{self.folder}/sft", "--output", f"{self.folder}/chat"])

    def evaluate(self) -> Scores:
        _announce(
            "Evaluate on held-out text: gains in Japanese, retention of Chinese and English.",
            "python -m glmja.evaluate --model models/chat --baseline chatglm3-6b --text ja=ja.jsonl zh=zh.jsonl "
            "en=en.jsonl --generate ja=ja_chats.jsonl --runs runs/pretrain runs/sft --output models/evaluation",
        )
        return evaluate.evaluate(  # not `main`, which would exit if retention failed
            model=f"{self.folder}/chat",
            output=f"{self.folder}/evaluation",
            baseline=f"{self.folder}/base",
            text=self._held_out(),
            generate=_split_by_language(Path(self.texts["conversations"].held_out)),
            runs=[f"{self.folder}/pretrain", f"{self.folder}/sft"],
            max_new_tokens=32,
        )

    def chat(self) -> None:
        model = f"{self.folder}/chat"
        _announce("Chat.", f"python -m glmja.chat --model {shlex.quote(model)}")
        for question in ("こんにちは。", "你好"):
            show(f"> {question}")
            chat.main(["--model", model, "--prompt", question, "--max_new_tokens", "32", "--seed", "0"])

    def _held_out(self) -> list[str]:
        return [f"{name}={text.held_out}" for name, text in self.texts.items() if name != "conversations"]

    def _source(self, name: str, lang: str, text: str) -> _Source:
        paths = self.texts[text]
        return {"name": name, "lang": lang, "files": [paths.train], "val_files": [paths.held_out]}

    def _fit(self, recipe: str, run: str, model: str, sources: Sequence[_Source], max_steps: int) -> None:
        fit.main(
            ["--config", str(CONFIGS / f"{recipe}.yaml"), "--run_dir", f"{self.folder}/{run}",
             "--model.init_args.model_dir", f"{self.folder}/{model}",
             "--data.init_args.sources", json.dumps(sources),
             "--data.init_args.cache_dir", f"{self.folder}/token_store", "--trainer.max_steps", str(max_steps)]
        )  # fmt: skip


class _Source(TypedDict):
    """A source of a data module, as in `configs/`."""

    name: str
    lang: str
    files: list[str]
    val_files: list[str]


def _split_texts(folder: Path) -> dict[str, _Text]:
    """Writes the shipped texts into two files each, for training and held out."""
    from glmja.twin.build import LANGUAGES, text_file

    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name in (*LANGUAGES, "conversations"):
        lines = text_file(name).read_text(encoding="utf-8").splitlines(keepends=True)
        parts = _Text(str(folder / f"{name}.jsonl"), str(folder / f"{name}.held_out.jsonl"))
        train = [line for i, line in enumerate(lines) if i % _HELD_OUT_EVERY]
        Path(parts.train).write_text("".join(train), encoding="utf-8")
        Path(parts.held_out).write_text("".join(lines[::_HELD_OUT_EVERY]), encoding="utf-8")
        texts[name] = parts
    return texts


def _split_by_language(path: Path) -> list[str]:
    """Writes conversations into one file per language; returns LANG=FILE for each."""
    records: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        records.setdefault(json.loads(line)["lang"], []).append(line)
    files = {lang: path.with_suffix(f".{lang}.jsonl") for lang in sorted(records)}
    for lang, file in files.items():
        file.write_text("".join(records[lang]), encoding="utf-8")
    return [f"{lang}={file}" for lang, file in files.items()]


def _results(folder: Path) -> Table:
    rows = (
        ("chat", "the final model; transformers can load it"),
        ("evaluation/report.html", "its evaluation"),
        ("zero_test/report.html", "Zero compared with its base"),
        ("pretrain, sft", "the runs: curves, sampled answers, checkpoints"),
        ("base, tokenizer, zero, pretrained", "intermediate results"),
    )
    cells = [(", ".join(str(folder / part) for part in parts.split(", ")), description) for parts, description in rows]
    return make_table(["", ""], cells, frame=False)


def _announce(text: str, command: str | None = None) -> None:
    """Prints what comes next, and the command of the same step for the real model."""
    show(f"\n{text}", style="bold")
    if command:
        show(f"$ {command}", style="cyan")


def main(args: list[str] | None = None) -> Scores:
    """Runs the command line."""
    return run_command(demo, args)
