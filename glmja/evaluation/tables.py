"""Scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from glmja.evaluation.answers import Answer
from glmja.evaluation.scores import QuestionComparison, ReplyComparison, Retention, Scores, TextComparison
from glmja.text.printable import printable
from glmja.text.terminal import as_text, make_table

_ANSWER_LEN = 80  # characters of an answer that are shown
_MEASURES = {  # short headers: the table fits into 80 columns
    "bleu4": "BLEU-4",
    "rouge1": "R-1",
    "rouge2": "R-2",
    "rougeL": "R-L",
    "repetition": "repeats",
    "script_purity": "script",
}


def tables(scores: Scores, answers: Sequence[Answer]) -> list[Table | Text]:
    """Formats scores and answers, the verdict on retention last.

    Args:
        scores: All scores.
        answers: All answers; only those to the questions are shown.
    """
    names = scores.compared
    shown: list[Table | Text] = []
    questions = [answer for answer in answers if answer.reference is None]
    if questions and scores.questions:
        shown += [_questions(questions, names), *_identical(scores.questions)]
    if scores.generation:
        shown.append(_generation(scores.generation, names))
    if scores.text:
        shown.append(_text(scores.text, names))
    if scores.retention:
        shown += [_retention(scores.retention), verdict(scores.retention)]
    return shown


def verdict(retention: Retention) -> Text:
    """Formats in one line whether retention passed."""
    drift = retention.languages[retention.worst].drift
    return Text(
        f"retention {'passed' if retention.passed else 'FAILED'}: bits per character of {retention.worst} changed by "
        f"{drift:+.2%} (limit {retention.max_drift:+.2%})",
        style="bold green" if retention.passed else "bold red",
    )


def _identical(questions: Mapping[str, QuestionComparison]) -> list[Text]:
    counts = [
        f"{lang} {found.identical} of {found.questions}"
        for lang, found in questions.items()
        if found.identical is not None
    ]
    return [Text(f"answers identical to the baseline's, id by id: {', '.join(counts)}")] if counts else []


def _text(text: Mapping[str, TextComparison], names: Sequence[str]) -> Table:
    headers = [f"{measure}\n{name}" for measure in ("bits/char", "tokens/char") for name in names]
    rows = []
    for lang, found in text.items():
        both = [getattr(found, name) for name in names]
        cells = [f"{getattr(one, key):.3f}" for key in ("bits_per_char", "tokens_per_char") for one in both]
        rows.append([lang, f"{found.characters:,}", *cells])
    return make_table(["", "characters", *headers], rows, title="Likelihood of held-out text", align="right")


def _retention(retention: Retention) -> Table:
    headings = ["", "change of bits/char", "mean KL, nats/token", "greedy continuations unchanged"]
    rows = []
    for lang, found in retention.languages.items():
        kl = "–" if found.mean_kl_nats is None else f"{found.mean_kl_nats:.4f}"
        share = f"{found.greedy_unchanged:.0%} of {found.greedy_continuations}"
        rows.append([lang, f"{found.drift:+.2%}", kl, share])
    return make_table(headings, rows, title="Retention", align="right")


def _generation(generation: Mapping[str, ReplyComparison], names: Sequence[str]) -> Table:
    rows = []
    for lang, found in generation.items():
        for name in names:
            cells = [f"{getattr(getattr(found, name), key):.2f}" for key in _MEASURES]
            rows.append([lang, name, str(found.references), *cells])
    headings = ["", "model", "answers", *_MEASURES.values()]
    return make_table(headings, rows, title="Answers compared with references", align="right")


def _questions(answers: Sequence[Answer], names: Sequence[str]) -> Table:
    rows = []
    for answer in answers:
        tokens = " → ".join(str(answer.prompt_tokens[name]) for name in names)
        cells = [as_text(" ".join(printable(getattr(answer, name), _ANSWER_LEN).split())) for name in names]
        if answer.identical:
            cells[-1] = Text("identical", style="green")
        rows.append([as_text(answer.prompt), as_text(tokens), *cells])
    return make_table(["question", "tokens", *names], rows, title="Eight questions, greedy decoding", show_lines=True)
