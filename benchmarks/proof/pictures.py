"""Pictures of the proof: learning curves, and Japanese against what is forgotten."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.proof.findings import AS_MANY, KNOWN, NO_GROWTH, Results, curve, drift, per_character
from benchmarks.proof.settings import ARMS, LR, RECOMMENDED, SHARES

_CURVES = (KNOWN, NO_GROWTH, AS_MANY, "positional", "calibrated", RECOMMENDED)


def draw(results: Results, path: Path) -> None:
    """Writes a picture: left the curves of the main arms, right the drift of all arms of one rate and budget."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, front = figure.subplots(1, 2)
    for arm in (arm for arm in _CURVES if arm in results):
        shares = [100 * share for share in SHARES]
        curves.plot(shares, curve(results, arm), _colour(arm), marker="o", markersize=3, label=_label(arm))
    curves.set(xlabel="% of the budget of an arm", ylabel="Japanese bits per character")
    for arm in (arm.name for arm in ARMS if arm.name in results and (arm.lr, arm.budgets) == (LR, 1)):
        drifts = [100 * drift(results, arm, lang).trimmed for lang in ("zh", "en")]
        x, y = sum(drifts) / 2, per_character(results, arm, 1.0, "ja")
        front.plot(x, y, _colour(arm), marker="o", markersize=4)
        front.annotate(_label(arm), (x, y), (3, 3), textcoords="offset points", fontsize=6)
    front.set(xlabel="drift of Chinese and English, mean in %", ylabel="Japanese bits per character at the end")
    front.margins(x=0.25, y=0.1)
    curves.legend(fontsize=7)
    for axes in (curves, front):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def _colour(arm: str) -> str:
    """Returns the same colour in both halves; grey for arms without a curve."""
    return f"C{_CURVES.index(arm)}" if arm in _CURVES else "grey"


def _label(arm: str) -> str:
    return arm.replace("`", "")
