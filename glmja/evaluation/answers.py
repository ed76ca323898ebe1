"""Answers and token boundaries of an evaluation, one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmja.conversation.replies import Reply
from glmja.evaluation.evaluator import ModelOutputs
from glmja.evaluation.tasks import EvalTasks
from glmja.text.scripts import language_of
from glmja.tokenization.tokenizer import GLMTokenizer

_SAMPLE_LEN = 120  # characters of a document whose tokens are shown
_BYTE, _SHOWN_BYTE = re.compile(r"<0x([0-9A-F]{2})>"), re.compile(r"·[0-9A-F]{2}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A line of `answers.jsonl`.

    Attributes:
        lang: Language of the prompt.
        prompt: The user's text.
        reference: The expected answer, if there is one.
        references: All accepted answers, if there are several.
        model: The model's answer.
        baseline: The baseline's answer, if there is a baseline.
        identical: Whether the two answers are identical, id by id.
        prompt_tokens: Length of the prompt in tokens of each model's tokenizer.
    """

    lang: str
    prompt: str
    reference: str | None
    model: str
    baseline: str | None = None
    identical: bool | None = None
    prompt_tokens: dict[str, int]
    references: list[str] | None = None


@dataclass(frozen=True)
class TokenizedSample:
    """Tokens of a text under each model's tokenizer.

    Attributes:
        lang: Language of the text.
        text: The text.
        pieces: Tokens as text, by `baseline` and `model`.
    """

    lang: str
    text: str
    pieces: dict[str, list[str]]


def list_answers(tasks: EvalTasks, model: ModelOutputs, baseline: ModelOutputs | None) -> list[Answer]:
    """Lists all answers: to the questions first, then to the conversations with references.

    Args:
        tasks: Inputs of the evaluation.
        model: Outputs of the model.
        baseline: Outputs of the baseline, if there is one.
    """
    found = []
    for i, question in enumerate(tasks.questions):
        before = (baseline.answers[i], baseline.tokenizer) if baseline else None
        found.append(_answer(language_of(question), question, [], (model.answers[i], model.tokenizer), before))
    for lang, references in tasks.references.items():
        for i, reference in enumerate(references.kept):
            prompt = "\n".join(message["content"] for message in reference.prompt)
            before = (baseline.replies[lang][i], baseline.tokenizer) if baseline else None
            found.append(_answer(lang, prompt, reference.answers, (model.replies[lang][i], model.tokenizer), before))
    return found


def tokenize_samples(tasks: EvalTasks, model: ModelOutputs, baseline: ModelOutputs | None) -> list[TokenizedSample]:
    """Tokenizes the beginning of each language's first document, or the questions if there are no texts.

    Args:
        tasks: Inputs of the evaluation.
        model: Outputs of the model.
        baseline: Outputs of the baseline, if there is one.
    """
    samples = {lang: documents[0][:_SAMPLE_LEN] for lang, documents in tasks.texts.items()}
    if not samples:
        samples = {language_of(question): question for question in tasks.questions}
    tokenizers = ({"baseline": baseline.tokenizer} if baseline else {}) | {"model": model.tokenizer}
    return [
        TokenizedSample(lang, text, {name: _pieces(text, tokenizer) for name, tokenizer in tokenizers.items()})
        for lang, text in samples.items()
    ]


def is_byte_piece(piece: str) -> bool:
    """Returns whether a piece of a `TokenizedSample` is a byte of a character that has no token of its own."""
    return _SHOWN_BYTE.fullmatch(piece) is not None


def _answer(
    lang: str,
    prompt: str,
    references: list[str],
    model: tuple[Reply, GLMTokenizer],
    baseline: tuple[Reply, GLMTokenizer] | None,
) -> Answer:
    compared = {"model": model} | ({"baseline": baseline} if baseline else {})
    return Answer(
        lang=lang,
        prompt=prompt,
        reference=references[0] if references else None,
        references=references if len(references) > 1 else None,
        model=model[0].whole,
        baseline=baseline[0].whole if baseline else None,
        identical=model[0].ids == baseline[0].ids if baseline else None,
        prompt_tokens={name: len(tokenizer.encode(prompt)) for name, (_, tokenizer) in compared.items()},
    )


def _pieces(text: str, tokenizer: GLMTokenizer) -> list[str]:
    pieces = [tokenizer.piece(token_id) for token_id in tokenizer.encode(text)]
    return [_BYTE.sub(r"·\1", piece).replace("\u2581", " ") for piece in pieces]
