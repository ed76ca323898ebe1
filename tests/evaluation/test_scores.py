from glmja.evaluation.scores import LanguageRetention, ModelInfo, Retention, Scores, TextComparison, TextScores, as_json
from glmja.evaluation.tables import tables, verdict


def test_values_that_are_absent_without_a_baseline_have_no_key():
    text = TextComparison(1, 2, TextScores(1.0, 0.5))
    scores = Scores("0", {"ja": text}, None, {}, None, ModelInfo("a", "b"), None, "characters", "row_len:8")
    assert as_json(scores) == {
        "glmja": "0",
        "text": {"ja": {"documents": 1, "characters": 2, "model": {"bits_per_char": 1.0, "tokens_per_char": 0.5}}},
        "retention": None,
        "generation": {},
        "questions": None,
        "model": {"folder": "a", "tokenizer_sha256": "b"},
        "baseline": None,
        "segmentation": "characters",
        "text_signature": "row_len:8",
    }


def scores(**values):
    info = ModelInfo("a", "b")
    empty = {"glmja": "0", "text": {}, "retention": None, "generation": {}, "questions": None, "segmentation": "words"}
    empty |= {"text_signature": "row_len:8"}
    return Scores(**empty | {"model": info, "baseline": info} | values)


def test_the_verdict_names_the_worst_language_its_drift_and_the_limit():
    zh, en = (LanguageRetention(drift, None, 0, 1.0, 3) for drift in (0.0312, -0.01))
    failed = verdict(Retention({"zh": zh, "en": en}, 0.02, "zh", False))
    assert failed.plain == "retention FAILED: bits per character of zh changed by +3.12% (limit +2.00%)"
    assert verdict(Retention({"en": en}, 0.02, "en", True)).plain.startswith("retention passed: ")


def test_only_measured_tasks_have_a_table():
    assert tables(scores(), []) == []
    text = TextComparison(1, 2, TextScores(1.0, 0.5), TextScores(2.0, 0.5))
    table, signature = tables(scores(text={"ja": text}), [])
    assert str(table.title) == "Likelihood of held-out text" and str(signature) == "bits/char: row_len:8"


def test_a_comparison_names_the_baseline_first():
    assert scores().compared == ["baseline", "model"]
    assert scores(baseline=None).compared == ["model"]
