"""Inputs of an evaluation, read and checked before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmja.conversation.messages import Message
from glmja.conversation.rendering import render_prompt
from glmja.evaluation.questions import QUESTIONS
from glmja.evaluation.references import References, read_references
from glmja.files.documents import read_documents
from glmja.files.input_files import InputPath
from glmja.modeling.model_folder import ModelFolder

_MIN_ROW_LEN = 8  # tokens: two of the prefix, and some text


@dataclass(frozen=True)
class EvalLimits:
    """Sizes of an evaluation.

    Attributes:
        max_characters: Maximum number of characters per language (whole documents).
        max_references: Maximum number of conversations per language.
        max_new_tokens: Maximum tokens per answer.
        row_len: Maximum length of a row of text, in tokens.
        batch_size: Rows per forward pass.
        stride: Number of tokens that each row of a long text but its first predicts, after context; None if rows have
            no context.

    Raises:
        ValueError: If a value is out of range.
    """

    max_characters: int
    max_references: int
    max_new_tokens: int
    row_len: int
    batch_size: int
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and not 1 <= self.stride <= self.row_len:
            raise ValueError(f"`stride` ({self.stride}) must be from 1 to `row_len` ({self.row_len})")
        for name, value in vars(self).items():
            if name == "stride":
                continue
            smallest = _MIN_ROW_LEN if name == "row_len" else 1
            if value < smallest:
                raise ValueError(f"`{name}` ({value}) must be at least {smallest}")


@dataclass(frozen=True)
class EvalTasks:
    """Inputs of an evaluation.

    Attributes:
        texts: Documents of each language, for bits per character.
        references: Conversations with reference answers of each language.
        questions: Questions of a user, each a conversation of its own.
        retained: Languages of `texts` in which the model is compared with a baseline token by token.
        limits: Sizes of the evaluation.

    Raises:
        ValueError: If there is nothing to evaluate.
    """

    texts: dict[str, list[str]]
    references: dict[str, References]
    questions: Sequence[str]
    retained: Sequence[str]
    limits: EvalLimits

    def __post_init__(self) -> None:
        if not (self.texts or self.references or self.questions):
            raise ValueError("nothing to evaluate; give `text` or `generate`, or set `questions` to true")

    def question_prompts(self) -> list[list[Message]]:
        """Returns the questions as conversations."""
        return [[{"role": "user", "content": question}] for question in self.questions]


def first_documents(files: Sequence[InputPath], text_key: str, max_characters: int) -> list[str]:
    """Reads whole documents until they have at least `max_characters` characters.

    Args:
        files: Files of one language.
        text_key: Key or column of the text.
        max_characters: Number of characters to read.

    Raises:
        ValueError: If a file is damaged or holds no text; gives `path:line`.
    """
    documents: list[str] = []
    num_characters = 0
    for document in read_documents(files, text_key):
        documents.append(document)
        num_characters += len(document)
        if num_characters >= max_characters:
            break
    return documents


def read_tasks(
    texts: Mapping[str, Sequence[InputPath]],
    text_key: str,
    chats: Mapping[str, Sequence[InputPath]],
    questions: bool,
    retained: Sequence[str],
    limits: EvalLimits,
) -> EvalTasks:
    """Reads texts and conversations.

    Args:
        texts: Files of each language.
        text_key: Key or column of the text.
        chats: Files of conversations of each language.
        questions: Whether to ask the eight questions.
        retained: Languages that the baseline knows; those without texts are left out.
        limits: Sizes of the evaluation.

    Raises:
        ValueError: If a file is damaged or holds nothing; gives `path:line`.
    """
    return EvalTasks(
        texts={lang: first_documents(files, text_key, limits.max_characters) for lang, files in texts.items()},
        references={lang: read_references(files, limits.max_references) for lang, files in chats.items()},
        questions=QUESTIONS if questions else (),
        retained=[lang for lang in retained if lang in texts],
        limits=limits,
    )


def check_fits(tasks: EvalTasks, model: ModelFolder) -> None:
    """Checks that rows and the questions fit into the positions of a model, without loading its weights.

    Args:
        tasks: Inputs of the evaluation.
        model: An opened model folder.

    Raises:
        ValueError: If something is too long.
    """
    limits, num_positions = tasks.limits, model.max_positions
    if limits.row_len > num_positions:
        raise ValueError(f"`row_len` ({limits.row_len}) exceeds the {num_positions} positions of {model.path}")
    if not (tasks.questions or tasks.references):
        return
    for number, prompt in enumerate(tasks.question_prompts(), start=1):
        num_tokens = len(render_prompt(prompt, model.tokenizer))
        if num_tokens + limits.max_new_tokens > num_positions:
            raise ValueError(
                f"question {number} has {num_tokens} tokens; with `max_new_tokens` ({limits.max_new_tokens}) that "
                f"exceeds the {num_positions} positions of {model.path}"
            )
