"""Scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from glmja.text.printable import printable

_ANSWER_LEN = 80  # characters of an answer that are shown
_MEASURES = ("bleu4", "rouge1", "rouge2", "rougeL", "repetition", "script_purity")
_SHORT = ("BLEU-4", "ROUGE-1", "-2", "-L", "loops", "script")


def tables(scores: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[Table | Text]:
    """What there is to show, the verdict on retention last."""
    names = compared(scores)
    shown: list[Table | Text] = []
    questions = [answer for answer in answers if answer["reference"] is None]
    if questions:
        shown.append(_questions(questions, names))
        shown += _identical(scores["questions"])
    if scores["generation"]:
        shown.append(_generation(scores["generation"], names))
    if scores["text"]:
        shown.append(_text(scores["text"], names))
    if scores["retention"]:
        shown += [_retention(scores["retention"]), verdict(scores["retention"])]
    return shown


def compared(scores: Mapping[str, Any]) -> list[str]:
    """`baseline`, if there is one, and `model`."""
    return [name for name in ("baseline", "model") if scores.get(name)]


def verdict(retention: Mapping[str, Any]) -> Text:
    """One line: whether what was there is still there."""
    worst = retention["worst"]
    drift = retention["languages"][worst]["drift"]
    text = f"retention {'passed' if retention['passed'] else 'FAILED'}: bits per character of {worst} changed by "
    return Text(
        f"{text}{drift:+.2%}, {retention['max_drift']:+.2%} allowed",
        style="bold green" if retention["passed"] else "bold red",
    )


def _identical(questions: Mapping[str, Any]) -> list[Text]:
    """How many answers a baseline gave, too."""
    compared = {lang: found for lang, found in questions.items() if "identical" in found}
    counts = [f"{lang} {found['identical']} of {found['questions']}" for lang, found in compared.items()]
    return [Text(f"answers identical to the baseline's, id by id: {', '.join(counts)}")] if counts else []


def _text(text: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = _table("text", ["", "characters", *_twice(["bits/char", "tokens/char"], names)])
    for lang, found in text.items():
        cells = [f"{found[name][key]:.3f}" for key in ("bits_per_char", "tokens_per_char") for name in names]
        table.add_row(lang, f"{found['characters']:,}", *cells)
    return table


def _retention(retention: Mapping[str, Any]) -> Table:
    table = _table("retention", ["", "drift of bits/char", "mean KL, nats/token", "greedy continuations unchanged"])
    for lang, found in retention["languages"].items():
        kl = found["mean_kl_nats"]
        share = f"{found['greedy_unchanged']:.0%} of {found['greedy_continuations']}"
        table.add_row(lang, f"{found['drift']:+.2%}", "–" if kl is None else f"{kl:.4f}", share)
    return table


def _generation(generation: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = _table("answers beside references", ["", "of", "answers", *_SHORT])
    for lang, found in generation.items():
        for name in names:
            cells = [f"{found[name][key]:.2f}" for key in _MEASURES]
            table.add_row(lang, name, str(found["references"]), *cells)
    return table


def _questions(answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    table = Table("question", "tokens", *names, title="eight questions, greedy", show_lines=True)
    for answer in answers:
        tokens = " → ".join(str(answer["prompt_tokens"][name]) for name in names)
        said = [Text(" ".join(printable(answer[name], _ANSWER_LEN).split())) for name in names]
        if answer.get("identical"):
            said[-1] = Text("identical", style="green")
        table.add_row(Text(answer["prompt"]), tokens, *said)
    return table


def _twice(measures: Sequence[str], names: Sequence[str]) -> list[str]:
    return [f"{measure}\n{name}" for measure in measures for name in names]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(columns[0], title=title)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table
