"""What the model answers while it learns."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.throughput import Throughput
from glmja.conversation.messages import Message
from glmja.conversation.replies import Reply, generate
from glmja.evaluation.questions import QUESTIONS
from glmja.modeling.sampling import Sampling
from glmja.text.printable import printable
from glmja.text.quality import repetition_rate, simplified_only_share
from glmja.text.scripts import language_of

_FILE_NAME = "chats.jsonl"
_MAX_CHARACTERS = 2000  # of a reply in TensorBoard and in the table; the file has all


class ChatSampler(Callback):
    """Asks the model the same questions before training, every few optimizer steps, and at the end.

    Each question is answered once greedily and once sampled, always with the same seed. The answers go to TensorBoard
    (`chat/…`), to `RUN_DIR/chats.jsonl`, and the last ones to the terminal. `chat/repetition` is the share of
    repeated 4-grams of tokens, a mean over all answers; `chat/ja_simplified_share` the share of Han characters that
    are simplified Chinese only, a mean over the answers to Japanese questions.

    The first process answers alone, with no word to the others, which wait at their next exchange of gradients; the
    time-out of the process group must be longer than the sampling. No global random state is touched.
    """

    def __init__(
        self,
        prompts: list[str] | None = None,
        every_n_steps: int = 500,
        max_new_tokens: int = 128,
        system: str | None = None,
        seed: int = 0,
        temperature: float = 0.8,
        top_p: float = 0.8,
    ) -> None:
        """Asks nothing yet.

        Args:
            prompts: Questions of a user; eight in Chinese and Japanese by default. One with a kana is Japanese.
            every_n_steps: Optimizer steps from one sampling to the next.
            max_new_tokens: An answer ends after so many tokens.
            system: System message before each question, if any.
            seed: Of the sampled answers.
            temperature: Divides the logits before sampling; small is greedy.
            top_p: Sample from the fewest tokens that hold this share of the probability.

        Raises:
            ValueError: If there is no prompt, or a number is out of its range.
        """
        self.sampling = Sampling(max_new_tokens, True, temperature, top_p, seed)
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps ({every_n_steps}) must be at least 1")
        if prompts is not None and not prompts:
            raise ValueError("prompts is empty; leave it out for the default ones")
        self.prompts = list(QUESTIONS if prompts is None else prompts)
        self.every_n_steps, self.system = every_n_steps, system
        self.last_step = -1
        self._last_chats: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the first process has the whole model.

        Raises:
            ValueError: If weights are divided among processes.
        """
        strategy = trainer.strategy
        divided = isinstance(strategy, FSDPStrategy | ModelParallelStrategy)
        if divided or (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3):
            raise ValueError(
                "ChatSampler generates in one process, which must hold all weights; under "
                f"{'ZeRO stage 3' if not divided else type(strategy).__name__} it does not: leave it out, or use "
                "DDP or ZeRO stage 2"
            )

    def state_dict(self) -> dict[str, int]:
        """The step of the last sampling, so that a resumed run does not repeat it."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes the step of the run that is resumed."""
        self.last_step = state_dict["last_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples before the first step; a resumed run instead forgets what came after its checkpoint."""
        if trainer.is_global_zero:
            _forget_after(Path(trainer.default_root_dir) / _FILE_NAME, trainer.global_step or -1)
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Samples if it is time."""
        if trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0:
            self._sample(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples the finished model and prints its answers."""
        self._sample(trainer, pl_module)
        if self._last_chats:
            Console().print(_table(self._last_chats, self.last_step))

    def _sample(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once a step: while gradients accumulate, the hooks are called again."""
        step = trainer.global_step
        if step == self.last_step:
            return
        self.last_step = step
        if not trainer.is_global_zero:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.stop()
        with trainer.precision_plugin.forward_context():
            greedy, sampled = (self._ask(pl_module, do_sample) for do_sample in (False, True))
        self._last_chats = [
            {
                "step": step,
                "prompt": prompt,
                "lang": language_of(prompt),
                "greedy": first.whole,
                "sampled": second.whole,
                "greedy_stopped": first.stopped,
                "sampled_stopped": second.stopped,
                "repetition": (repetition_rate(first.ids) + repetition_rate(second.ids)) / 2,
                "simplified_share": (simplified_only_share(first.whole) + simplified_only_share(second.whole)) / 2,
            }
            for prompt, first, second in zip(self.prompts, greedy, sampled, strict=True)
        ]
        self._write(trainer)

    def _ask(self, pl_module: LightningModule, do_sample: bool) -> list[Reply]:
        model: Any = pl_module.model
        tokenizer: Any = pl_module.tokenizer
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system is not None else []
        return generate(
            model,
            tokenizer,
            [[*before, {"role": "user", "content": prompt}] for prompt in self.prompts],
            replace(self.sampling, do_sample=do_sample),
        )

    def _write(self, trainer: Trainer) -> None:
        chats, step = self._last_chats, self.last_step
        path = Path(trainer.default_root_dir) / _FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
        metrics = {"chat/repetition": _mean([chat["repetition"] for chat in chats])}
        japanese = [chat["simplified_share"] for chat in chats if chat["lang"] == "ja"]
        if japanese:
            metrics["chat/ja_simplified_share"] = _mean(japanese)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
            if isinstance(logger, TensorBoardLogger):
                for number, chat in enumerate(chats, start=1):
                    body = f"**greedy** {as_markdown(chat['greedy'])}\n\n**sampled** {as_markdown(chat['sampled'])}"
                    logger.experiment.add_text(f"chat/{number:02} {printable(chat['prompt'])[:40]}", body, step)


def as_markdown(text: str) -> str:
    """The text for a Markdown renderer that knows HTML: nothing in it is markup, and its lines stay lines."""
    text = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", printable(text, _MAX_CHARACTERS))
    return "<br>".join(line.strip(" ") for line in text.split("\n"))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _forget_after(path: Path, step: int) -> None:
    """Keeps the whole lines up to a step: those after it will be written again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last is empty, or torn
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)


def _table(chats: list[dict[str, Any]], step: int) -> Table:
    table = Table("prompt", "greedy", "sampled", title=f"chats at step {step}", show_lines=True)
    for chat in chats:
        table.add_row(
            *(Text(" ".join(printable(chat[key], _MAX_CHARACTERS).split())) for key in ("prompt", "greedy", "sampled"))
        )
    return table
