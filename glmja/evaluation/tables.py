"""Scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from glmja.evaluation.answers import Answer
from glmja.evaluation.new_piece_scores import tables_of_new_pieces
from glmja.evaluation.retention import RetentionScores
from glmja.evaluation.scores import QuestionComparison, ReplyComparison, Scores, TextComparison
from glmja.text.printable import one_line
from glmja.text.quality import failure_of
from glmja.text.sacrebleu_scores import INSTALL
from glmja.text.terminal import as_text, make_table

_ANSWER_LEN = 80  # characters of an answer that are shown
_MEASURES = {  # short headers: the table fits into 80 columns
    "bleu4": "BLEU-4",
    "rouge1": "R-1",
    "rouge2": "R-2",
    "rougeL": "R-L",
    "exact_match": "exact",
    "right_tool": "right tool",
}
_VERDICT_STYLES = {"kept": "bold green", "changed": "bold red", "lost": "bold red", "inconclusive": "bold yellow"}
_QUALITY = {
    "repetition": "repeats",
    "script_purity": "script",
    "latin": "Latin",
    "simplified_only": "simplified",
    "stopped": "ended",
}


def tables(scores: Scores, answers: Sequence[Answer]) -> list[Table | Text]:
    """Formats scores and answers, the verdict on retention last.

    Args:
        scores: All scores.
        answers: All answers; only those to the questions are shown.
    """
    names = scores.compared
    shown: list[Table | Text] = _failures(scores)
    questions = [answer for answer in answers if answer.reference is None]
    if questions and scores.questions:
        shown += [_questions(questions, names), _ended(scores.questions, names), *_identical(scores.questions)]
    if scores.generation:
        shown += [*_generation(scores.generation, names), *_notes(scores.generation)]
    if scores.text:
        shown += [_text(scores.text, names), as_text(f"bits/char: {scores.text_signature}", "dim")]
    if scores.new_pieces:
        shown += tables_of_new_pieces(scores.new_pieces)
    if scores.retention:
        shown += [_retention(scores.retention), *verdict(scores.retention)]
    return shown


def verdict(retention: RetentionScores) -> list[Text]:
    """Formats the verdict on retention in a line, and the reasons of each language in a line each."""
    languages = ", ".join(f"{lang} {found.verdict}" for lang, found in retention.languages.items())
    lines = [Text(f"retention: {retention.verdict} ({languages})", style=_VERDICT_STYLES[retention.verdict])]
    reasons = [
        f"{lang} {found.verdict}: {reason}" for lang, found in retention.languages.items() for reason in found.reasons
    ]
    return lines + [Text(reason) for reason in reasons]


def _failures(scores: Scores) -> list[Table | Text]:
    """Returns a table of answers that are none, or a line if there are none of these."""
    counted = scores.failures()
    if not any(found.total for found in counted):
        number = sum(found.answers for found in counted)
        return [Text(f"none of {number} answers is empty, blank or looping", style="green")] if counted else []
    rows = [
        [f"{found.lang} {found.asked}", found.name, *map(str, (found.answers, found.empty, found.blank, found.looping))]
        for found in counted
    ]
    headings = ["", "model", "answers", "empty", "blank", "looping"]
    return [make_table(headings, rows, title="Failed answers", align="right")]


def _ended(questions: Mapping[str, QuestionComparison], names: Sequence[str]) -> Text:
    shares = [
        f"{lang} {name} {getattr(found, name).stopped:.0%}" for lang, found in questions.items() for name in names
    ]
    return Text(f"answers that ended by themselves: {', '.join(shares)}")


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


def _retention(retention: RetentionScores) -> Table:
    headings = ["", "documents", "change of\nbits/char", "95 %\ninterval", "without\nextremes", "KL, nats\nper token",
                "unchanged\ngreedy"]  # fmt: skip
    rows = []
    for lang, found in retention.languages.items():
        interval = f"{found.drift_low:+.2%}\n{found.drift_high:+.2%}"
        kl = "–" if found.mean_kl_nats is None else f"{found.mean_kl_nats:.4f}"
        share = f"{found.greedy_unchanged:.0%} of {found.greedy_continuations}"
        trimmed = f"{found.drift_trimmed:+.2%}"
        rows.append([lang, f"{found.documents:,}", f"{found.drift:+.2%}", interval, trimmed, kl, share])
    limits = retention.limits
    bounds = [f"≥ {limits.min_documents}", f"≤ {limits.max_drift:+.2%}", "", "", f"≤ {limits.max_kl:g}"]
    rows.append(["limit", *bounds, f"≥ {limits.min_unchanged:.0%}"])
    return make_table(headings, rows, title="Retention", align="right")


def _generation(generation: Mapping[str, ReplyComparison], names: Sequence[str]) -> list[Table]:
    """Returns three tables, each of which fits into 80 columns."""

    def table(title: str, measures: Mapping[str, str]) -> Table:
        rows = [
            [lang, name, str(found.references), *(_number(getattr(getattr(found, name), key)) for key in measures)]
            for lang, found in generation.items()
            for name in names
        ]
        return make_table(["", "model", "answers", *measures.values()], rows, title=title, align="right")

    shown = [table("Answers compared with references", _MEASURES), table("Quality of these answers", _QUALITY)]
    if any(found.model.chrf is not None for found in generation.values()):
        shown.insert(1, table("As sacrebleu computes them", {"sacrebleu": "BLEU", "chrf": "chrF2"}))
    return shown


def _notes(generation: Mapping[str, ReplyComparison]) -> list[Text]:
    """Returns the signatures, and what is missing."""
    lines = [
        f"{lang} {name}: {signature}"
        for lang, found in generation.items()
        for name, signature in found.signatures.items()
    ]
    for lang, found in generation.items():
        if found.model.bleu4 is None:
            lines.append(f"{lang}: no BLEU-4, because no reference has four segments; see exact")
        if found.model.sacrebleu is None:
            what = "BLEU" if found.model.chrf is not None else "BLEU and chrF"
            lines.append(f"{lang}: no {what} of sacrebleu; it needs: {INSTALL}")
    return [as_text(line, "dim") for line in lines]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _shortened(text: str) -> str:
    failure = failure_of(text)
    return f"({failure})" if failure in ("empty", "blank") else one_line(text, _ANSWER_LEN)


def _questions(answers: Sequence[Answer], names: Sequence[str]) -> Table:
    rows = []
    for answer in answers:
        tokens = " → ".join(str(answer.prompt_tokens[name]) for name in names)
        cells = [as_text(_shortened(getattr(answer, name))) for name in names]
        if answer.identical:
            cells[-1] = Text("identical", style="green")
        rows.append([as_text(answer.prompt), as_text(tokens), *cells])
    return make_table(["question", "tokens", *names], rows, title="Eight questions, greedy decoding", show_lines=True)
