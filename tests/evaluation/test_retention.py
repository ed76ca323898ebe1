import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.evaluation.retention import (
    Drift,
    LanguageRetention,
    RetentionLimits,
    judge,
    measure_drift,
    retention,
)

LIMITS = RetentionLimits()
KEPT = {"mean_kl_nats": 0.01, "greedy_unchanged": 0.9, "num_documents": 100}


def drift(value=0.0, low=None, high=None, trimmed=None):
    ends = (value if end is None else end for end in (low, high, trimmed))
    return Drift(value, *ends)


def verdict(found, limits=LIMITS, **measured):
    return judge(found, limits=limits, **KEPT | measured)


@pytest.mark.parametrize(
    ("found", "measured", "expected", "reason"),
    [
        (drift(), {}, "kept", ""),
        (drift(0.01, 0.0, 0.02), {}, "kept", ""),
        (drift(-0.3), {"mean_kl_nats": 0.15, "greedy_unchanged": 0.1}, "kept", ""),
        (drift(-0.3), {"greedy_unchanged": 0.0}, "changed", "0% of greedy continuations are unchanged"),
        (drift(-0.3), {"mean_kl_nats": 0.2}, "changed", "mean KL divergence is 0.2000 nats per token"),
        (drift(0.03, 0.01, 0.05), {"greedy_unchanged": 0.0}, "changed", "0% of greedy"),
        (drift(0.03, 0.021, 0.04), {"greedy_unchanged": 0.0}, "lost", "bits per character changed by +3.00%"),
        (drift(0.03, 0.01, 0.05), {}, "inconclusive", "95% interval +1.00% to +5.00%"),
        (drift(0.01, 0.0, 0.021), {}, "inconclusive", "limit +2.00%"),
        (drift(0.01, 0.0, 0.02, 0.03), {}, "inconclusive", "by +3.00% without the documents that changed most"),
        (drift(), {"num_documents": 19}, "inconclusive", "too few documents to judge from: 19; at least 20 are needed"),
        (drift(), {"num_documents": 1}, "inconclusive", "too few documents to judge from: 1"),
        (drift(0.5), {"num_documents": 19}, "inconclusive", "too few"),
        (drift(), {"mean_kl_nats": None, "greedy_unchanged": 0.0}, "inconclusive", "tokenize the text differently"),
        (drift(0.5), {"mean_kl_nats": None, "greedy_unchanged": 0.0}, "lost", "+50.00%"),
    ],
)
def test_a_language_is_kept_only_if_all_measurements_are_within_their_limits(found, measured, expected, reason):
    result, reasons = verdict(found, **measured)
    assert result == expected
    assert reason in "; ".join(reasons) and bool(reasons) == (expected != "kept")


def test_a_sample_below_the_stated_size_gives_no_verdict_however_clear_it_is():
    assert verdict(drift(), num_documents=20)[0] == "kept"
    assert verdict(drift(), num_documents=20, limits=RetentionLimits(min_documents=21))[0] == "inconclusive"


def language(result):
    return LanguageRetention(
        **vars(drift()), documents=9, mean_kl_nats=None, kl_tokens=0, greedy_unchanged=1, greedy_continuations=9,
        verdict=result, reasons=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["kept", "kept"], "kept"),
        (["kept", "inconclusive"], "inconclusive"),
        (["inconclusive", "changed", "kept"], "changed"),
        (["changed", "lost", "inconclusive"], "lost"),
    ],
)
def test_the_verdict_is_that_of_the_worst_language(verdicts, worst):
    assert retention({str(i): language(one) for i, one in enumerate(verdicts)}, LIMITS).verdict == worst


@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000)), min_size=1, max_size=40))
def test_the_drift_is_the_change_of_the_total_and_lies_within_the_changes_of_the_documents(pairs):
    before, after = zip(*pairs, strict=True)
    found = measure_drift(before, after)
    changes = [new / old - 1 for old, new in pairs]
    assert found.drift == pytest.approx(sum(after) / sum(before) - 1)
    for value in vars(found).values():
        assert min(changes) - 1e-9 <= value <= max(changes) + 1e-9
    assert found.drift_low <= found.drift_high
    assert found == measure_drift(before, after)  # the seed is fixed


def test_the_interval_covers_the_true_change_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(40):
        lengths = rng.integers(50, 150, 60)
        before = lengths * rng.normal(4, 0.5, 60)
        found = measure_drift(before, before * rng.normal(1.01, 0.02, 60), seed=trial)
        covered += found.drift_low <= 0.01 <= found.drift_high
    assert 33 <= covered <= 40  # 38 expected


def test_the_trimmed_change_does_not_hang_on_two_documents():
    before, after = [100.0] * 100, [101.0] * 98 + [30.0, 20.0]
    found = measure_drift(before, after)
    assert found.drift < 0 and found.drift_trimmed == pytest.approx(0.01)
    assert found.drift_low < found.drift < found.drift_high


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_drift": -0.1}, r"`max_drift` \(-0\.1\) must be at least 0; 0\.02 allows 2 %"),
        ({"max_kl": float("nan")}, r"`max_kl` \(nan\) must be at least 0; it is in nats per token"),
        ({"min_unchanged": 1.5}, r"`min_unchanged` \(1\.5\) must be a share from 0 to 1"),
        ({"min_documents": 1}, r"`min_documents` \(1\) must be at least 2: one document gives no confidence"),
    ],
)
def test_limits_out_of_range_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        RetentionLimits(**values)
