"""What one model is found to do: likelihoods of texts, answers, continuations.

Two models are examined one after the other, so that one of them at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glmja.conversation.messages import Message
from glmja.conversation.replies import Reply, generate
from glmja.evaluation.likelihood import Distributions, Likelihood, measure
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer

_NUM_CONTINUED = 32  # documents of each language
_START_LEN = 64  # characters of a document that are to be continued
_CONTINUATION_LEN = 32  # tokens
_KEPT_POSITIONS = 16384  # of each language, for the divergence: 0.13 GB at 6B in 16 bits


@dataclass(frozen=True)
class EvalTasks:
    """What models are asked.

    Attributes:
        texts: Documents of each language.
        retained: Languages in which two models are to be compared token by token.
        questions: Of a user, one each.
        prompts: Conversations of each language that end before an answer.
        references: The expected answers, one for each prompt.
        row_len: Longest row of text, in tokens.
        batch_size: Rows of a forward pass, and prompts that are answered at a time.
        max_new_tokens: An answer ends after so many.
    """

    texts: dict[str, list[str]]
    retained: Sequence[str]
    questions: Sequence[str]
    prompts: dict[str, list[list[Message]]]
    references: dict[str, list[str]]
    row_len: int
    batch_size: int
    max_new_tokens: int


@dataclass
class ModelOutputs:
    """What a model did, by language where there are several.

    Attributes:
        tokenizer: The model's.
        likelihoods: Of the texts.
        distributions: Over the first positions of the retained languages' texts.
        continuations: Greedy ids after the beginnings of the retained languages' documents.
        answers: To the questions, greedy.
        replies: To the prompts, greedy.
    """

    tokenizer: GLMTokenizer
    likelihoods: dict[str, Likelihood] = field(default_factory=dict)
    distributions: dict[str, Distributions] = field(default_factory=dict)
    continuations: dict[str, list[list[int]]] = field(default_factory=dict)
    answers: list[Reply] = field(default_factory=list)
    replies: dict[str, list[Reply]] = field(default_factory=dict)


class Evaluator:
    """Asks one model everything that an exam holds."""

    def __init__(self, folder: str | Path, exam: EvalTasks, device: str, dtype: torch.dtype | None = None) -> None:
        """Loads the model.

        Args:
            folder: Of the model, in either layout.
            exam: What is asked.
            device: To work on.
            dtype: Of the weights; as stored if None.

        Raises:
            OSError: If a file does not exist.
            ValueError: If the weights are damaged.
        """
        self.exam, self.name, self.tokenizer = exam, Path(folder).name, GLMTokenizer.load(folder)
        self.model = load_model(folder, dtype).to(device)

    def examine(self) -> ModelOutputs:
        """Asks everything, and shows how far it is.

        Raises:
            ValueError: If a prompt does not fit the model.
        """
        exam, found = self.exam, ModelOutputs(self.tokenizer)
        steps: dict[str, Callable[[], None]] = {}
        for lang in exam.texts:
            steps[f"reading {lang}"] = partial(self._read, lang, found)
        for lang in exam.retained:
            steps[f"continuing {lang}"] = partial(self._continue, lang, found)
        if exam.questions:
            steps["answering questions"] = partial(self._answer_questions, found)
        for lang in exam.prompts:
            steps[f"answering {lang}"] = partial(self._answer_prompts, lang, found)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns) as progress:
            task = progress.add_task(self.name, total=len(steps))
            for what, step in steps.items():
                progress.update(task, description=f"{self.name}: {what}")
                step()
                progress.advance(task)
        return found

    def _read(self, lang: str, found: ModelOutputs) -> None:
        keep = _KEPT_POSITIONS if lang in self.exam.retained else 0
        found.likelihoods[lang], found.distributions[lang] = measure(
            self.model, self.tokenizer, self.exam.texts[lang], self.exam.row_len, self.exam.batch_size, keep
        )

    def _continue(self, lang: str, found: ModelOutputs) -> None:
        starts = [text[:_START_LEN] for text in self.exam.texts[lang][:_NUM_CONTINUED]]
        rows = [[*self.tokenizer.prefix_ids, *self.tokenizer.encode(start)] for start in starts]
        said = generate_ids(
            self.model, self.tokenizer, rows, Sampling(_CONTINUATION_LEN), batch_size=self.exam.batch_size
        )
        found.continuations[lang] = [ids for ids, _ in said]

    def _answer_questions(self, found: ModelOutputs) -> None:
        # one by one: two models are compared id by id, and in 16 bits padding may turn a near tie
        found.answers = self._answer([[{"role": "user", "content": q}] for q in self.exam.questions], 1)

    def _answer_prompts(self, lang: str, found: ModelOutputs) -> None:
        found.replies[lang] = self._answer(self.exam.prompts[lang], self.exam.batch_size)

    def _answer(self, prompts: Sequence[Sequence[Message]], batch_size: int) -> list[Reply]:
        """Greedily, prompts of similar lengths together: a batch takes as long as its longest."""
        order = sorted(range(len(prompts)), key=lambda i: sum(len(message["content"]) for message in prompts[i]))
        replies = generate(
            self.model,
            self.tokenizer,
            [prompts[i] for i in order],
            Sampling(self.exam.max_new_tokens),
            batch_size=batch_size,
        )
        return [reply for _, reply in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0])]
