"""Samples answers of the model during training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from rich.table import Table

from glmja.conversation.messages import Message
from glmja.conversation.replies import Reply, generate
from glmja.evaluation.questions import QUESTIONS
from glmja.modeling.contracts import TrainingModule, training_module
from glmja.modeling.sampling import Sampling
from glmja.runs.run_folder import RunFolder
from glmja.text.printable import one_line, printable
from glmja.text.quality import repetition_rate, simplified_only_share
from glmja.text.scripts import language_of
from glmja.text.terminal import make_table, show

_MAX_CHARACTERS = 2000  # of an answer in TensorBoard; the file holds it in full
_LINE_LEN = 32  # characters of a text in the table


class Chat(TypedDict):
    """A prompt and its answers at an optimizer step, as a line of `chats.jsonl`."""

    step: int
    prompt: str
    lang: str
    greedy: str
    sampled: str
    greedy_stopped: bool
    sampled_stopped: bool
    repetition: float
    simplified_share: float


class ChatSampler(Callback):
    """Generates answers to the same prompts before training, every few optimizer steps, and at the end.

    Each prompt is answered once greedily and once with sampling, always with the same seed. The answers are logged to
    TensorBoard (`chat/…`) and to `RUN_DIR/chats.jsonl`; the last ones are printed. `chat/repetition` is the share of
    repeated token 4-grams, averaged over all answers; `chat/ja_simplified_share` is the share of Han characters that
    exist in simplified Chinese only, averaged over the answers to Japanese prompts.

    Only the first process generates. The others wait for it at their next gradient exchange, so the time-out of the
    process group must be longer than the sampling takes. No global random state is changed.
    """

    samples_chats = True  # `--chats false` leaves such callbacks out of a run

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
        """Creates the callback.

        Args:
            prompts: Messages of a user; eight in Chinese and Japanese by default. A prompt with kana counts as
                Japanese.
            every_n_steps: Number of optimizer steps between two samplings.
            max_new_tokens: Maximum number of tokens per answer.
            system: System message before each prompt; none by default.
            seed: Random seed of the sampled answers.
            temperature: Divisor of the logits before sampling; small values approach greedy decoding.
            top_p: Probability mass of the most likely tokens to sample from.

        Raises:
            ValueError: If there is no prompt, or a number is out of range.
        """
        self.sampling = Sampling(max_new_tokens, True, temperature, top_p, seed)
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps ({every_n_steps}) must be at least 1")
        if prompts is not None and not prompts:
            raise ValueError("prompts is empty; leave it out for the default ones")
        self.prompts = list(QUESTIONS if prompts is None else prompts)
        self.every_n_steps, self.system = every_n_steps, system
        self.last_step = -1
        self._last_chats: list[Chat] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the first process holds the whole model.

        Raises:
            ValueError: If the strategy shards the weights.
        """
        strategy = trainer.strategy
        is_sharded = isinstance(strategy, FSDPStrategy | ModelParallelStrategy)
        if is_sharded or (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3):
            raise ValueError(
                "ChatSampler generates in one process, which must hold all weights; under "
                f"{type(strategy).__name__ if is_sharded else 'ZeRO stage 3'} it does not: remove the callback, or use "
                "DDP or ZeRO stage 2"
            )

    def state_dict(self) -> dict[str, int]:
        """Returns the step of the last sampling, so that a resumed run does not repeat it."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restores the step of the last sampling."""
        self.last_step = state_dict["last_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples before the first step; a resumed run instead removes the answers after its checkpoint."""
        if trainer.is_global_zero:
            _remove_after(RunFolder(trainer.default_root_dir).chats, trainer.global_step or -1)
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Samples every `every_n_steps` optimizer steps."""
        if trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0:
            self._sample(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples the final model and prints its answers."""
        self._sample(trainer, pl_module)
        if self._last_chats:
            show(_table(self._last_chats, self.last_step))
            show(f"all chats in full: {RunFolder(trainer.default_root_dir).chats}")

    def _sample(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples once per optimizer step; the hooks are called for every accumulated micro-batch."""
        step = trainer.global_step
        if step == self.last_step:
            return
        self.last_step = step
        if not trainer.is_global_zero:
            return
        module = training_module(pl_module)
        module.clock.stop()
        with trainer.precision_plugin.forward_context():
            greedy, sampled = (self._generate(module, do_sample) for do_sample in (False, True))
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

    def _generate(self, module: TrainingModule, do_sample: bool) -> list[Reply]:
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system is not None else []
        return generate(
            module.model,
            module.tokenizer,
            [[*before, {"role": "user", "content": prompt}] for prompt in self.prompts],
            replace(self.sampling, do_sample=do_sample),
        )

    def _write(self, trainer: Trainer) -> None:
        chats, step = self._last_chats, self.last_step
        path = RunFolder(trainer.default_root_dir).chats
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
    """Escapes a text for a renderer of Markdown and HTML, so that it is shown as it is, with its line breaks."""
    text = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", printable(text, _MAX_CHARACTERS))
    return "<br>".join(line.strip(" ") for line in text.split("\n"))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _remove_after(path: Path, step: int) -> None:
    """Removes the lines after a step, which will be written again, and an incomplete last line."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last is empty or incomplete
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)


def _table(chats: list[Chat], step: int) -> Table:
    """Shows each answer in a line."""
    rows = [[one_line(chat["prompt"], _LINE_LEN), one_line(chat["greedy"], _LINE_LEN)] for chat in chats]
    return make_table(["prompt", "greedy answer"], rows, title=f"chats at step {step}")
