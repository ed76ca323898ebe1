"""The steps of the demo."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

from glmja import build_tokenizer, evaluate, export, fit, resize_embeddings
from glmja.cli.command import program
from glmja.cli.ending import Ending, show_ending
from glmja.demo import commands, results
from glmja.demo.recitation import Recitation, read_questions
from glmja.demo.texts import Split, Texts, read_messages
from glmja.evaluation.scores import Scores
from glmja.files.documents import read_documents
from glmja.text.terminal import show
from glmja.twin.build import build_base

CONFIGS = Path(__file__).parents[2] / "configs"

_BASE_LANGUAGES = ("zh", "en")  # languages of the base


@dataclass
class Steps:
    """The steps of the demo; each reads the results of those before it.

    Attributes:
        folder: Folder of all results.
        texts: Texts for training and held-out ones.
        device: Device on which models are asked.
        asked: Replies of each model to the trained questions, by the model's folder.
        scores: Scores of each evaluated model and of the base, by the model's folder.
    """

    folder: Path
    texts: Texts
    device: str
    asked: dict[str, Recitation] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)

    def teach_base(self, num_steps: int) -> None:
        """Makes the base and teaches it Chinese and English.

        Args:
            num_steps: Optimizer steps for conversations; half as many before that for texts.
        """
        _announce(
            "A base model: a tiny ChatGLM3 is taught the Chinese and English texts and conversations of the package.\n"
            "It stands for ChatGLM3-6B, and learns by heart, since it is 5,000 times smaller. This takes a minute."
        )
        prose, chats = (
            {lang: found[lang] for lang in _BASE_LANGUAGES} for found in (self.texts.prose, self.texts.chats)
        )
        messages = (text for split in chats.values() for text in read_messages(split.train))
        build_base(self.folder / "random", [*read_documents([split.train for split in prose.values()]), *messages])
        with redirect_stdout(io.StringIO()):  # this is no step of the method
            teach = partial(self._fit, model="random", is_base=True)
            teach("demo_base_text", "base_text", texts=prose, max_steps=-(-num_steps // 2))
            first = f"--init_from={self.folder}/base_text"
            teach("demo_base_chats", "base_chats", first, texts=chats, max_steps=num_steps)
            export.main(
                ["--checkpoint", f"{self.folder}/base_chats", "--output", f"{self.folder}/base",
                 "--format", "chatglm", "--check", "false"]
            )  # fmt: skip
        self._ask("base", self.texts.chats)

    def build_tokenizer(self) -> None:
        """Adds Japanese tokens to the tokenizer."""
        _announce(
            "Add Japanese tokens to the tokenizer, and verify that other text is tokenized as before.",
            commands.BUILD_TOKENIZER,
        )
        held_out = [f"{lang}={split.held_out}" for lang, split in self.texts.prose.items()]
        build_tokenizer.main(
            ["--base", f"{self.folder}/base", "--corpus", self.texts.prose["ja"].train, "--num_new_pieces", "600",
             "--output", f"{self.folder}/tokenizer", "--check", *held_out]
        )  # fmt: skip

    def resize_embeddings(self) -> None:
        """Makes Zero, and compares it with the base."""
        _announce(
            "Add embedding rows for the new tokens: Zero, which answers as before and does not know Japanese yet.",
            commands.RESIZE_EMBEDDINGS,
        )
        resize_embeddings.main(
            ["--base", f"{self.folder}/base", "--tokenizer", f"{self.folder}/tokenizer",
             "--output", f"{self.folder}/zero"]
        )  # fmt: skip
        _announce(
            "Compare Zero with its base: identical answers to Chinese, fewer tokens for Japanese.",
            commands.EVALUATE_ZERO,
        )
        self._evaluate("zero", "zero_test", "--max_new_tokens", "48")
        zero, base = self._ask("zero", _BASE_LANGUAGES), self.asked["base"]
        same = ["{} {} of {}".format(lang, *zero.identical(base, lang)) for lang in _BASE_LANGUAGES]
        show(f"replies to questions without Japanese identical to the base's, id by id: {', '.join(same)}")

    def pretrain(self, num_steps: int, learning_rate: float) -> None:
        """Pretrains on texts in all languages."""
        _announce(
            "Pretrain on packed sequences: low-rank adapters and embeddings. Chinese and English text is trained\n"
            "towards the predictions of the base (--model.retention.languages '[zh, en]').",
            commands.PRETRAIN,
        )
        more = ["--model.optimizer.lr", str(learning_rate), "--model.retention.languages", json.dumps(_BASE_LANGUAGES)]
        self._fit("demo_pretrain", "pretrain", *more, model="zero", texts=self.texts.prose, max_steps=num_steps)
        self._export("pretrain", "pretrained", commands.EXPORT_PRETRAINED)
        self._ask("pretrained", _BASE_LANGUAGES)

    def evaluate_pretrained(self) -> None:
        """Compares the pretrained model with the base on held-out texts."""
        _announce(
            "Evaluate on held-out text: gains in Japanese, retention of Chinese and English.",
            commands.EVALUATE_PRETRAINED,
        )
        self._evaluate("pretrained", "pretrained_test", "--questions", "false")

    def fine_tune(self, num_steps: int) -> None:
        """Fine-tunes on conversations in all languages."""
        _announce("Fine-tune on conversations.", commands.FINE_TUNE)
        self._fit("demo_sft", "sft", model="pretrained", texts=self.texts.chats, max_steps=num_steps)
        self._export("sft", "chat", commands.EXPORT_CHAT)
        self._ask("chat", self.texts.chats)

    def evaluate(self) -> Scores:
        """Compares the final model with the base, on held-out texts and conversations."""
        _announce(
            "Evaluate the final model. The eight questions are among those trained on.",
            commands.EVALUATE,
        )
        runs = [f"{self.folder}/pretrain", f"{self.folder}/sft"]
        chats = f"ja={self.texts.chats['ja'].held_out}"
        return self._evaluate("chat", "evaluation", "--generate", chats, "--runs", *runs, "--max_new_tokens", "64")

    def show_results(self, seconds: float) -> None:
        """Shows what has changed, and where everything is.

        Args:
            seconds: Duration of the demo.
        """
        _announce("What has changed")
        show(results.figures(self.scores), results.recitations(self.asked))
        show(results.replies(self.asked["base"], self.asked["chat"]), results.folders(self.folder))
        curves = f"tensorboard --logdir {shlex.quote(str(self.folder))}"
        ending = Ending(f"all results in {self.folder}", "chat", {"model": str(self.folder / "chat")}, others=[curves])
        show_ending(ending, seconds, program(ending.next_command))

    def _ask(self, model: str, languages: Iterable[str]) -> Recitation:
        """Asks a model the trained questions in some languages."""
        questions = read_questions({lang: self.texts.chats[lang].train for lang in languages})
        found = self.asked[model] = Recitation.of(self.folder / model, questions, self.device)
        counts = [f"{lang} {count}" for lang, count in found.counts().items()]
        show(f"memorised, trained questions answered word for word: {', '.join(counts)}")
        return found

    def _evaluate(self, model: str, report: str, *others: str) -> Scores:
        """Compares a model with the base on held-out texts."""
        found = self.scores[model] = evaluate.measure(  # not `main`, which would exit if retention failed
            ["--model", f"{self.folder}/{model}", "--baseline", f"{self.folder}/base",
             "--output", f"{self.folder}/{report}",
             "--text", *(f"{lang}={split.held_out}" for lang, split in self.texts.prose.items()), *others]
        )  # fmt: skip
        return found

    def _export(self, run: str, model: str, command: str) -> None:
        show(f"$ {command}", style="cyan")
        export.main(["--checkpoint", f"{self.folder}/{run}", "--output", f"{self.folder}/{model}"])

    def _fit(
        self,
        recipe: str,
        run: str,
        *others: str,
        model: str,
        texts: dict[str, Split],
        max_steps: int,
        is_base: bool = False,
    ) -> None:
        """Trains a model; the base is not validated."""
        sources: list[_Source] = [
            {"name": lang, "lang": lang, "files": [split.train], "val_files": [] if is_base else [split.held_out]}
            for lang, split in texts.items()
        ]
        fit.main(
            ["--config", str(CONFIGS / f"{recipe}.yaml"), "--run_dir", f"{self.folder}/{run}",
             "--model.model_dir", f"{self.folder}/{model}",
             "--data.sources", json.dumps(sources),
             "--data.cache_dir", f"{self.folder}/token_store", "--trainer.max_steps", str(max_steps),
             *others]
        )  # fmt: skip


class _Source(TypedDict):
    """A source of a data module, as in `configs/`."""

    name: str
    lang: str
    files: list[str]
    val_files: list[str]


def _announce(text: str, command: str | None = None) -> None:
    """Prints what comes next, and the command of the same step for the real model."""
    show(f"\n{text}", style="bold")
    if command:
        show(f"$ {command}", style="cyan")
