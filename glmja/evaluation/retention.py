"""The verdict whether a model kept what its baseline could do in a language.

Three measurements have a limit each, because each misses what another one finds: bits per character can fall while
every answer changes; a small divergence per token adds up over an answer; and a few answers can stay the same while
the text becomes less likely. docs/evaluation.md argues the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["lost", "changed", "inconclusive", "kept"]  # the worst first

CONFIDENCE = 0.95

_NUM_RESAMPLES = 2000
_TRIMMED_SHARE = 0.05  # of the documents, at either end


@dataclass(frozen=True)
class RetentionLimits:
    """Limits of the changes from the baseline with which a language is kept.

    Attributes:
        max_drift: Largest relative increase of bits per character.
        max_kl: Largest mean KL divergence from the baseline, in nats per token.
        min_unchanged: Smallest share of greedy continuations that must be identical.
        min_documents: Smallest number of documents to judge from.

    Raises:
        ValueError: If a value is out of range.
    """

    max_drift: float = 0.02
    max_kl: float = 0.15
    min_unchanged: float = 0.1
    min_documents: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.max_drift < float("inf"):
            raise ValueError(
                f"`max_drift` ({self.max_drift}) must be at least 0; 0.02 allows 2 % more bits per character"
            )
        if not 0 <= self.max_kl < float("inf"):
            raise ValueError(f"`max_kl` ({self.max_kl}) must be at least 0; it is in nats per token")
        if not 0 <= self.min_unchanged <= 1:
            raise ValueError(f"`min_unchanged` ({self.min_unchanged}) must be a share from 0 to 1")
        if self.min_documents < 2:
            raise ValueError(
                f"`min_documents` ({self.min_documents}) must be at least 2: one document gives no confidence interval"
            )


@dataclass(frozen=True)
class Drift:
    """Relative change of bits per character; positive is worse.

    Attributes:
        drift: Change over all documents.
        drift_low: Lower end of its 95 % confidence interval.
        drift_high: Upper end of its 95 % confidence interval.
        drift_trimmed: Change without the 5 % of the documents (at least one) that changed most at either end. If it
            is far from `drift`, the mean depends on a few documents.
    """

    drift: float
    drift_low: float
    drift_high: float
    drift_trimmed: float


@dataclass(frozen=True, kw_only=True)
class LanguageRetention(Drift):
    """Change of a model from its baseline in one language, and the verdict.

    Attributes:
        documents: Number of documents that the drift is over.
        mean_kl_nats: Mean KL divergence in nats per token; None if no row is tokenized alike.
        kl_tokens: Number of positions that the mean is over.
        greedy_unchanged: Share of greedy continuations that are identical, id by id.
        greedy_continuations: Number of continuations compared.
        verdict: `kept` if all three are within their limits; `lost` if bits per character certainly rose by more than
            the limit; `changed` if they did not, but the divergence or the continuations exceed theirs;
            `inconclusive` if the documents do not suffice.
        reasons: Why the verdict is not `kept`.
    """

    documents: int
    mean_kl_nats: float | None
    kl_tokens: int
    greedy_unchanged: float
    greedy_continuations: int
    verdict: Verdict
    reasons: list[str]


@dataclass(frozen=True)
class RetentionScores:
    """Retention results of all languages.

    Attributes:
        languages: Results of each language.
        limits: The limits.
        verdict: The worst verdict of all languages.
    """

    languages: dict[str, LanguageRetention]
    limits: RetentionLimits
    verdict: Verdict


def retention(languages: Mapping[str, LanguageRetention], limits: RetentionLimits) -> RetentionScores:
    """Combines the results of all languages.

    Args:
        languages: Results of each language; at least one.
        limits: The limits that they were judged by.
    """
    found = {result.verdict for result in languages.values()}
    return RetentionScores(dict(languages), limits, next(verdict for verdict in get_args(Verdict) if verdict in found))


def measure_drift(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Drift:
    """Computes the relative change of bits per character, with a confidence interval over documents.

    The interval is a bootstrap with 2,000 resamples (`glmja.evaluation.resampling`). Both models predict the same
    characters, whose number cancels.

    Args:
        before: Negative log-likelihood of each document under the baseline, in nats.
        after: The same under the model.
        seed: Seed of the resampling.

    Dimensions: N documents
    """
    import numpy as np  # noqa: PLC0415 - takes half a second, which --help should not

    from glmja.evaluation.resampling import bootstrap_interval, relative_change  # noqa: PLC0415

    # a document that the baseline is certain of has no nats in 32 bits
    old_N, new_N = (np.maximum(np.asarray(nats, dtype=float), np.finfo(float).tiny) for nats in (before, after))
    count = len(old_N)
    low, high = bootstrap_interval(old_N, new_N, _NUM_RESAMPLES, CONFIDENCE, seed)
    num_trimmed = max(1, round(_TRIMMED_SHARE * count)) if count > 2 else 0
    order = np.argsort(new_N / old_N, kind="stable")
    kept = order[num_trimmed : count - num_trimmed]
    total, trimmed = relative_change(old_N, new_N), relative_change(old_N[kept], new_N[kept])
    return Drift(float(total), low, high, float(trimmed))


def judge(
    drift: Drift,
    mean_kl_nats: float | None,
    greedy_unchanged: float,
    num_documents: int,
    limits: RetentionLimits,
) -> tuple[Verdict, list[str]]:
    """Judges one language.

    Args:
        drift: Change of bits per character.
        mean_kl_nats: Mean KL divergence in nats per token; None if it could not be measured.
        greedy_unchanged: Share of unchanged greedy continuations.
        num_documents: Number of documents.
        limits: The limits.

    Returns:
        The verdict, and the reasons why it is not `kept`.
    """
    if num_documents < limits.min_documents:
        needed = f"at least {limits.min_documents} are needed"
        return "inconclusive", [f"too few documents to judge from: {num_documents}; {needed}"]
    bits = f"bits per character changed by {drift.drift:+.2%} ({_interval(drift)}, limit {limits.max_drift:+.2%})"
    if drift.drift_low > limits.max_drift:
        return "lost", [bits]
    changes = []
    if mean_kl_nats is not None and mean_kl_nats > limits.max_kl:
        changes.append(f"mean KL divergence is {mean_kl_nats:.4f} nats per token (limit {limits.max_kl:g})")
    if mean_kl_nats is not None and greedy_unchanged < limits.min_unchanged:
        changes.append(
            f"{greedy_unchanged:.0%} of greedy continuations are unchanged (limit {limits.min_unchanged:.0%})"
        )
    if changes:
        return "changed", changes
    doubts = [bits] if drift.drift_high > limits.max_drift else []
    if not doubts and drift.drift_trimmed > limits.max_drift:
        doubts.append(f"{bits}, but by {drift.drift_trimmed:+.2%} without the documents that changed most")
    if mean_kl_nats is None:  # continuations are compared id by id, so they cannot be compared either
        doubts.append("the models tokenize the text differently, so only bits per character can be compared")
    return ("inconclusive", doubts) if doubts else ("kept", [])


def _interval(drift: Drift) -> str:
    return f"{CONFIDENCE:.0%} interval {drift.drift_low:+.2%} to {drift.drift_high:+.2%}"
