"""Replies of the demo's models to the questions that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from glmja.conversation.replies import Reply
from glmja.evaluation.evaluator import Evaluator
from glmja.evaluation.references import Reference, References, read_references
from glmja.evaluation.tasks import EvalLimits, EvalTasks
from glmja.modeling.loading import choose_dtype
from glmja.modeling.model_folder import ModelFolder
from glmja.tokenization.vocabulary import contains_distinguishing

_LIMITS = EvalLimits(max_characters=1, max_references=1000, max_new_tokens=128, row_len=1024, batch_size=128)


def read_questions(paths: Mapping[str, str]) -> dict[str, References]:
    """Reads conversations; the last answer of each is the one that is asked for.

    Args:
        paths: File of each language.
    """
    return {lang: read_references([path], _LIMITS.max_references) for lang, path in paths.items()}


@dataclass(frozen=True)
class Recitation:
    """Greedy replies of a model to questions with known answers.

    Attributes:
        questions: The questions of each language.
        replies: The replies, in the order of the questions.
    """

    questions: Mapping[str, References]
    replies: Mapping[str, list[Reply]]

    @classmethod
    def of(cls, folder: Path, questions: Mapping[str, References], device: str) -> Recitation:
        """Generates the replies of a model.

        Args:
            folder: Folder of the model.
            questions: Conversations of each language.
            device: Device to run on.
        """
        tasks = EvalTasks({}, dict(questions), (), (), _LIMITS)
        evaluator = Evaluator(ModelFolder.open(folder), tasks, device, choose_dtype(None, device))
        return cls(questions, evaluator.run().replies)

    def exact(self, lang: str) -> int:
        """Returns how many replies are the trained answers, word for word."""
        pairs = zip(self.questions[lang].kept, self.replies[lang], strict=True)
        return sum(reply.whole in reference.answers for reference, reply in pairs)

    def identical(self, other: Recitation, lang: str) -> tuple[int, int]:
        """Compares replies to questions without Japanese, which an extended tokenizer leaves as they were.

        Returns:
            How many replies equal those of the other model, id by id, and the number of questions.
        """
        pairs = zip(self.questions[lang].kept, self.replies[lang], other.replies[lang], strict=True)
        same = [reply.ids == others.ids for asked, reply, others in pairs if not _has_japanese(asked)]
        return sum(same), len(same)

    def reply_to(self, question: str) -> str:
        """Returns the reply to a question without a conversation before it.

        Raises:
            KeyError: If it was not asked.
        """
        for lang, asked in self.questions.items():
            for reference, reply in zip(asked.kept, self.replies[lang], strict=True):
                if [message["content"] for message in reference.prompt] == [question]:
                    return reply.whole
        raise KeyError(question)

    def counts(self) -> dict[str, str]:
        """Returns the number of exact replies of each language, such as `12 of 30`."""
        return {lang: f"{self.exact(lang)} of {len(asked.kept)}" for lang, asked in self.questions.items()}


def _has_japanese(asked: Reference) -> bool:
    return any(contains_distinguishing(message["content"], "japanese") for message in asked.prompt)
