"""Tables of the proof, and whether its targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.tables import Figures
from benchmarks.proof.arm_results import BASE, Result
from benchmarks.proof.settings import RECOMMENDED, SHARES
from callbacks.retention_guard import ValidationDrift, measure
from glmja.evaluation.resampling import bootstrap_interval, relative_change

Results = Mapping[str, Sequence[Result]]
Bits = NDArray[np.float64]
Target = tuple[str, str, bool]  # what, the figure, whether it is met

KNOWN, NO_GROWTH, AS_MANY = "known recipe", "no growth", "no growth, as many characters"
VARIED = (", half the rate", ", four budgets")  # ends of the names of arms
PAIRS = [
    ("calibrated", KNOWN), ("positional", KNOWN), (RECOMMENDED, KNOWN),
    ("calibrated", NO_GROWTH), (RECOMMENDED, NO_GROWTH), ("calibrated", AS_MANY), (RECOMMENDED, AS_MANY),
    ("calibrated", "positional"), ("positional", "`subtoken_mean`"),
    (RECOMMENDED, "calibrated"), (RECOMMENDED, "calibrated at 12 %"),
    ("positional, retention 10 at 12 %", "positional"),
    *((RECOMMENDED + varied, other + varied) for varied in VARIED for other in (KNOWN, NO_GROWTH, "calibrated")),
]  # fmt: skip
_RESAMPLES = 2000


def mean_bits(results: Sequence[Result], share: float, lang: str) -> Bits:
    """Returns the bits of each window, averaged over seeds, (N,)."""
    return np.mean([result.at(share, lang) for result in results], axis=0)


def per_character(results: Results, arm: str, share: float, lang: str, count: int | None = None) -> float:
    """Returns bits per character on the first `count` windows; None takes all that were measured at that share."""
    bits = mean_bits(results[arm], share, lang)[:count]
    return float(bits.sum() / sum(results[BASE][0].characters[lang][: len(bits)]))


def curve(results: Results, arm: str) -> list[float]:
    """Returns Japanese bits per character at each share of the budget, all on the same windows."""
    count = min(len(mean_bits(results[arm], share, "ja")) for share in SHARES)
    return [per_character(results, arm, share, "ja", count) for share in SHARES]


def difference(results: Results, arm: str, other: str, lang: str, share: float = 1.0) -> tuple[float, float, float]:
    """Returns the relative difference of an arm's bits from another's, paired by windows, and its 95 % interval."""
    new, old = (mean_bits(results[name], share, lang) for name in (arm, other))
    return float(relative_change(old, new)), *bootstrap_interval(old, new, _RESAMPLES)


def drift(results: Results, arm: str, lang: str, share: float = 1.0) -> ValidationDrift:
    """Returns the drift of a language since the base, as `callbacks.RetentionGuard` computes it."""
    now = mean_bits(results[arm], share, lang)
    before = results[BASE][0].at(0.0, lang)[: len(now)]
    rows = [{f"{number:06}": float(bits) for number, bits in enumerate(found)} for found in (before, now)]
    return measure(*rows)


def share_to_reach(results: Results, arm: str, other: str) -> float | None:
    """Returns the first measured share of the budget at which an arm's Japanese is as good as another's at its end."""
    for share in SHARES:
        bits = mean_bits(results[arm], share, "ja")
        if bits.sum() <= mean_bits(results[other], 1.0, "ja")[: len(bits)].sum():
            return share
    return None


def arms_table(results: Results) -> Figures:
    """Returns a row for each arm, over all windows."""
    headings = ["arm", "tokens", "ja characters", "teacher", "ja", "each seed", "zh drift", "en drift", "CPU s"]
    base = results[BASE][0]
    table = Figures("The end of each arm: Japanese bits per character, and drift since the base", headings)
    table.rows.append([BASE, "", "", "", f"{per_character(results, BASE, 0.0, 'ja'):.3f}", *[""] * 4])
    for arm, runs in results.items():
        if arm == BASE:
            continue
        first = runs[0]
        ends = (result.at(1.0, "ja").sum() / sum(base.characters["ja"]) for result in runs)
        teacher = first.flops["teacher"] / sum(first.flops.values())
        table.rows.append([
            arm, f"{first.tokens:,}", f"{first.characters['ja'][0]:,}", f"{teacher:.1%}" if teacher else "",
            f"{per_character(results, arm, 1.0, 'ja'):.3f}", ", ".join(f"{end:.3f}" for end in ends),
            *(_percent(*drift(results, arm, lang)[:3]) for lang in ("zh", "en")),
            f"{np.mean([result.cpu_seconds for result in runs]):.0f}",
        ])  # fmt: skip
    return table


def curves_table(results: Results) -> Figures:
    """Returns the curve of each arm."""
    arms = [arm for arm in results if arm != BASE]
    count = min(len(mean_bits(results[arm], SHARES[1], "ja")) for arm in arms) if arms else None
    title = f"Japanese bits per character on {count} windows, by the share of the budget"
    table = Figures(title, ["arm", *(f"{share:.0%}" for share in SHARES)])
    table.rows.append([BASE, f"{per_character(results, BASE, 0.0, 'ja', count):.3f}", *[""] * (len(SHARES) - 1)])
    table.rows += [[arm, *(f"{bits:.3f}" for bits in curve(results, arm))] for arm in arms]
    return table


def start_table(results: Results) -> Figures:
    """Returns the change of each language by new rows, before training."""
    table = Figures("Bits per character before training, and change since the base", ["model", "ja", "zh", "en"])
    cells = (f"{per_character(results, BASE, 0.0, lang):.3f}" for lang in ("ja", "zh", "en"))
    table.rows.append([BASE, *cells])
    for arm in (KNOWN, "`subtoken_mean`", "positional", "calibrated"):
        if arm in results:
            changes = (_percent(*_change_at_start(results, arm, lang)) for lang in ("ja", "zh", "en"))
            table.rows.append([arm, *changes])
    return table


def pairs_table(results: Results) -> Figures:
    """Returns paired differences at the end."""
    table = Figures("Bits per character of one arm relative to another, at the end", ["arms", "ja", "zh", "en"])
    for arm, other in PAIRS:
        if arm in results and other in results:
            cells = (_percent(*difference(results, arm, other, lang)) for lang in ("ja", "zh", "en"))
            table.rows.append([f"{arm} / {other}", *cells])
    return table


def targets_table(results: Results) -> Figures:
    """Returns the targets whose arms were measured, met or not."""
    table = Figures("Targets", ["target", "measured", "met"])
    targets = [*_of_japanese(results, "calibrated"), *_of_japanese(results, RECOMMENDED), *_of_retention(results)]
    for varied in VARIED:
        targets += [*_of_japanese(results, RECOMMENDED, varied), *_of_retention(results, varied)]
    targets += _of_the_start(results)
    table.rows = [[target, measured, "yes" if met else "**no**"] for target, measured, met in targets]
    return table


def _of_japanese(results: Results, arm: str, varied: str = "") -> Iterator[Target]:
    """Yields the targets of an arm's Japanese, against other arms of the same rate and budget."""
    arm, known = arm + varied, KNOWN + varied
    if {arm, known} <= results.keys():
        change = difference(results, arm, known, "ja")
        yield f"{arm}: ja at least 5 % below the known recipe", _percent(*change), change[0] <= -0.05
        share = share_to_reach(results, arm, known)
        reached = "never" if share is None else f"at {share:.0%} of the budget"
        yield f"{arm}: the known recipe's last ja by 25 %", reached, share is not None and share <= 0.25
    for other in (NO_GROWTH, AS_MANY):
        if {arm, other + varied} <= results.keys():
            change = difference(results, arm, other + varied, "ja")
            yield f"{arm}: ja below {other}", _percent(*change), change[2] < 0


def _of_retention(results: Results, varied: str = "") -> Iterator[Target]:
    """Yields the targets of the recommended retention."""
    arm, plain = RECOMMENDED + varied, "calibrated" + varied
    if arm in results:
        for lang in ("zh", "en"):
            found = drift(results, arm, lang)
            yield f"{arm}: {lang} drift at most +1 %", _percent(*found[:3]), found.trimmed <= 0.01
    if {arm, plain} <= results.keys():
        change = difference(results, arm, plain, "ja")
        yield f"{arm}: no cost in ja", _percent(*change), change[1] <= 0


def _of_the_start(results: Results) -> Iterator[Target]:
    """Yields the targets of Zero models before training."""
    for arm in ("positional", "calibrated"):
        for lang, limit in (("ja", 0.03), ("zh", 0.02), ("en", 0.02)):
            if arm in results:
                change = _change_at_start(results, arm, lang)
                target = f"{arm}: {lang} before training within {limit:.0%} of the base"
                yield target, _percent(*change), change[0] <= limit


def _change_at_start(results: Results, arm: str, lang: str) -> tuple[float, float, float]:
    old, new = results[BASE][0].at(0.0, lang), mean_bits(results[arm], 0.0, lang)
    return float(relative_change(old, new)), *bootstrap_interval(old, new, _RESAMPLES)


def _percent(value: float, low: float, high: float) -> str:
    return f"{value:+.1%} [{100 * low:+.1f}, {100 * high:+.1f}]"


TABLES = (arms_table, curves_table, start_table, pairs_table, targets_table)
