"""Plots as `data:` URIs of SVG images, to embed in a page.

Colors are those of the Okabe-Ito palette, which is safe for color-blind readers (https://jfly.uni-koeln.de/color/). A
color means the same in all plots: a model or a language.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "baseline": "#0072B2", "model": "#E69F00",
    "ja": "#CC79A7", "zh": "#D55E00", "en": "#009E73", "code": "#56B4E9",
}  # fmt: skip
_OTHER = ("#444444", ("-", "--", ":", "-."))  # color and line styles of all other curves

_MAX_POINTS = 500  # per curve; more cannot be distinguished


def bars(values: Mapping[str, Sequence[float]], groups: Sequence[str], label: str) -> str:
    """Plots grouped bars.

    Args:
        values: One value per group, for `model` and `baseline`.
        groups: Names of the groups.
        label: Label of the value axis.

    Returns:
        A `data:` URI.
    """
    figure, axes = _figure(label)
    width = 0.8 / len(values)
    for number, (name, heights) in enumerate(values.items()):
        places = [i + (number - (len(values) - 1) / 2) * width for i in range(len(groups))]
        drawn = axes.bar(places, heights, width * 0.95, label=name, color=COLORS[name])
        axes.bar_label(drawn, fmt="%.3f", fontsize=8, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.margins(y=0.15)
    if len(values) > 1:
        axes.legend(frameon=False)
    return _uri(figure)


def drifts(values: Mapping[str, tuple[float, float, float]], limit: float) -> str:
    """Plots relative changes of bits per character with their confidence intervals and the allowed limit.

    Args:
        values: Relative change of each language, and the ends of its interval; 0.01 is 1 %.
        limit: Largest change allowed.

    Returns:
        A `data:` URI.
    """
    figure, axes = _figure("", height=0.9 + 0.45 * len(values))
    for name, (value, low, high) in values.items():
        axes.plot([100 * low, 100 * high], [name, name], color=COLORS["model"], linewidth=3, solid_capstyle="butt")
        axes.plot([100 * value], [name], color=COLORS["model"], marker="o")
        label = axes.annotate(f"{value:+.2%}", (100 * value, name), (0, 7), textcoords="offset points", ha="center")
        label.set(fontsize=9, bbox={"color": "white", "pad": 1}, zorder=3)
    axes.axvline(100 * limit, color="black", linestyle="--", linewidth=1, label=f"limit: {limit:+.1%}")
    axes.axvline(0, color="black", linewidth=0.8)
    reach = 1.2 * max(100 * limit, 0.1, *(100 * abs(end) for ends in values.values() for end in ends))
    axes.set(xlim=(-reach, reach), ylim=(-0.6, len(values) - 0.4), xlabel="change of bits per character, %")
    axes.invert_yaxis()
    figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return _uri(figure)


def lines(curves: Mapping[str, Sequence[tuple[int, float]]], label: str) -> str:
    """Plots curves over optimizer steps.

    Args:
        curves: (step, value) pairs of each curve.
        label: Label of the value axis.

    Returns:
        A `data:` URI.
    """
    figure, axes = _figure(label)
    color, styles = _OTHER
    others = dict(zip((name for name in curves if name not in COLORS), cycle(styles), strict=False))
    for name, points in curves.items():
        thinned = points[:: max(1, len(points) // _MAX_POINTS)]
        marker = "o" if len(thinned) < 30 else ""
        axes.plot(
            *zip(*thinned, strict=True), label=name, color=COLORS.get(name, color), linestyle=others.get(name, "-"),
            marker=marker, markersize=3,
        )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8)
    return _uri(figure)


def _figure(label: str, height: float = 3.0) -> tuple[Figure, Axes]:
    # not pyplot, which keeps figures in a global list and looks for a display
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _uri(figure: Figure) -> str:
    picture = io.BytesIO()
    # a fixed salt and no date, so that the same scores give the same page
    with rc_context({"svg.hashsalt": "glmja"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
