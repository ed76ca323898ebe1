"""Scores as one page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from glmja.evaluation import plots
from glmja.evaluation.tables import compared, verdict
from glmja.text.printable import printable

_EXAMPLES = 5  # of each language's references


def render(
    scores: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
    segmentations: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
) -> str:
    """The page, as HTML.

    Args:
        scores: As `glmja.evaluation.scores.scores` gives them.
        answers: As `glmja.evaluation.scores.answers` gives them; what models said is escaped.
        segmentations: As `glmja.evaluation.scores.segmentations` gives them.
        curves: Of runs by name, (step, value) by TensorBoard tag.
    """
    environment = Environment(
        loader=PackageLoader("glmja.evaluation", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["printable"] = printable
    retention = scores["retention"]
    return environment.get_template("report_page.html").render(
        scores=scores,
        names=compared(scores),
        verdict=str(verdict(retention)) if retention else None,
        questions=[answer for answer in answers if answer["reference"] is None],
        examples=_examples(answers),
        segmentations=segmentations,
        plots=_plots(scores, curves),
    )


def _plots(
    scores: Mapping[str, Any], curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
) -> dict[str, str]:
    found, text, retention = {}, scores["text"], scores["retention"]
    if retention:
        drift = {lang: found["drift"] for lang, found in retention["languages"].items()}
        found["drift"] = plots.drifts(drift, retention["max_drift"])
    for key, label in (("bits_per_char", "bits per character"), ("tokens_per_char", "tokens per character")):
        if text:
            values = {name: [text[lang][name][key] for lang in text] for name in compared(scores)}
            found[key] = plots.bars(values, list(text), label)
    bits = "/bits_per_char"
    for run, tags in curves.items():
        if loss := tags.get("train/loss"):
            found[f"{run}: training loss"] = plots.lines({"train/loss": loss}, "nats per token")
        if validation := {tag.split("/")[1]: points for tag, points in tags.items() if tag.endswith(bits)}:
            found[f"{run}: held-out text"] = plots.lines(validation, "bits per character")
    return found


def _examples(answers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    taken: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer["reference"] is not None:
            taken.setdefault(answer["lang"], []).append(answer)
    return [answer for found in taken.values() for answer in found[:_EXAMPLES]]
