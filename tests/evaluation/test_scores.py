from glmja.evaluation.retention import LanguageRetention, RetentionLimits, retention
from glmja.evaluation.scores import ModelInfo, Scores, TextComparison, TextScores, as_json
from glmja.evaluation.tables import tables, verdict
from tests.support.provenance import MADE


def test_values_that_are_absent_without_a_baseline_have_no_key():
    text = TextComparison(1, 2, TextScores(1.0, 0.5))
    scores = Scores("0", {"ja": text}, None, {}, None, ModelInfo("a", "b", "c"), None, "characters", "row_len:8", MADE)
    assert as_json(scores) == {
        "glmja": "0",
        "text": {"ja": {"documents": 1, "characters": 2, "model": {"bits_per_char": 1.0, "tokens_per_char": 0.5}}},
        "retention": None,
        "generation": {},
        "questions": None,
        "model": {"folder": "a", "tokenizer_sha256": "b", "weights_fingerprint": "c"},
        "baseline": None,
        "segmentation": "characters",
        "text_signature": "row_len:8",
        "provenance": as_json(MADE),
    }


def scores(**values):
    info = ModelInfo("a", "b", "c")
    empty = {"glmja": "0", "text": {}, "retention": None, "generation": {}, "questions": None, "segmentation": "words"}
    empty |= {"text_signature": "row_len:8", "provenance": MADE}
    return Scores(**empty | {"model": info, "baseline": info} | values)


def test_the_verdict_names_each_language_and_why_it_is_not_kept():
    values = {"drift": 0.0312, "drift_low": 0.025, "drift_high": 0.04, "drift_trimmed": 0.03, "documents": 99,
              "mean_kl_nats": None, "kl_tokens": 0, "greedy_unchanged": 0.5, "greedy_continuations": 4}  # fmt: skip
    zh = LanguageRetention(**values, verdict="lost", reasons=["bits per character changed"])
    en = LanguageRetention(**values, verdict="kept", reasons=[])
    both = retention({"zh": zh, "en": en}, RetentionLimits())
    assert [str(line) for line in verdict(both)] == [
        "retention: lost (zh lost, en kept)", "zh lost: bits per character changed"
    ]  # fmt: skip
    assert [str(line) for line in verdict(retention({"en": en}, RetentionLimits()))] == ["retention: kept (en kept)"]
    table, *_ = tables(scores(retention=both), [])
    assert [str(cell) for cell in list(table.columns[3].cells)] == ["+2.50%\n+4.00%", "+2.50%\n+4.00%", ""]


def test_only_measured_tasks_have_a_table():
    assert tables(scores(), []) == []
    text = TextComparison(1, 2, TextScores(1.0, 0.5), TextScores(2.0, 0.5))
    table, signature = tables(scores(text={"ja": text}), [])
    assert str(table.title) == "Likelihood of held-out text" and str(signature) == "bits/char: row_len:8"


def test_a_comparison_names_the_baseline_first():
    assert scores().compared == ["baseline", "model"]
    assert scores(baseline=None).compared == ["model"]
