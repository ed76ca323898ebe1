"""Scores from outputs that are written by hand; tests/commands/test_evaluate.py has those of models."""

from dataclasses import replace

import pytest
import torch

from glmja.conversation.replies import Reply
from glmja.evaluation.evaluator import ModelOutputs
from glmja.evaluation.likelihood import Distributions, Likelihood
from glmja.evaluation.references import Reference, References
from glmja.evaluation.retention import RetentionLimits
from glmja.evaluation.scoring import score
from glmja.evaluation.tasks import EvalLimits, EvalTasks
from glmja.text.overlap import segmenter
from tests.support.provenance import MADE

LIMITS = EvalLimits(1000, 10, 16, 64, 2)
CALL = "get_weather\n```python\ntool_call(city='東京')\n```"


def tasks(references=(), texts=(), questions=(), retained=()):
    kept = {"ja": References(list(references))} if references else {}
    return EvalTasks({lang: ["あいう"] for lang in texts}, kept, questions, retained, LIMITS)


def reply(text, metadata="", ids=(5, 6), stopped=True):
    return Reply(text, metadata, list(ids), 3, stopped)


def scored(given, model, baseline=None, **limits):
    segmenters = {lang: segmenter(lang, "characters") for lang in given.references}
    allowed = RetentionLimits(min_documents=2, **limits)
    return score(given, model, baseline, limits=allowed, segmentation="characters", segmenters=segmenters, made=MADE)


@pytest.fixture
def outputs(tokenizer):
    return ModelOutputs("m", tokenizer, "w")


def test_a_call_scores_in_full_only_with_the_right_tool(outputs):
    given = tasks([Reference([], [CALL], "get_weather"), Reference([], ["東京は晴れです。"])])
    arguments = CALL.partition("\n")[2]
    found = {}
    for name in ("get_weather", "delete_everything", "Get_Weather", ""):
        replies = [reply(arguments, name), reply("東京は晴れです。")]
        found[name] = scored(given, replace(outputs, replies={"ja": replies})).generation["ja"].model
    right = found.pop("get_weather")
    assert (right.bleu4, right.rougeL, right.exact_match, right.right_tool) == (pytest.approx(100), 100, 100, 1)
    for wrong in found.values():
        assert wrong.right_tool == 0 and wrong.exact_match == 50
        assert max(wrong.bleu4, wrong.rouge1, wrong.rouge2, wrong.rougeL, wrong.sacrebleu, wrong.chrf) < 90


def test_an_answer_without_a_tool_is_compared_with_its_metadata_line(outputs):
    given = tasks([Reference([], ["東京は晴れです。"])])
    found = scored(given, replace(outputs, replies={"ja": [reply("晴れです。", "東京は")]})).generation["ja"].model
    assert found.rouge1 == 100 and found.right_tool is None


def test_every_figure_of_answers_has_a_signature_and_the_share_that_ended(outputs):
    given = tasks([Reference([], ["はい", "ええ"]), Reference([], ["いいえ"])])
    replies = [reply("ええ"), reply("はい", stopped=False)]
    found = scored(given, replace(outputs, replies={"ja": replies})).generation["ja"]
    assert (found.references, found.model.stopped, found.model.exact_match) == (2, 0.5, 50)
    assert found.model.bleu4 is None
    assert found.signatures["answers"] == "greedy|max_new_tokens:16"
    assert "tok:ja-mecab" in found.signatures["sacrebleu"] and "nrefs:var" in found.signatures["sacrebleu"]
    assert found.signatures.keys() == {"answers", "bleu4", "rouge", "exact_match", "sacrebleu", "chrf"}


def test_records_that_were_left_out_are_counted(outputs):
    given = tasks([Reference([], ["はい"])])
    given.references["ja"].leave_out("a.jsonl:2", "empty answer", "message 1")
    given.references["ja"].shortened = 1
    found = scored(given, replace(outputs, replies={"ja": [reply("はい")]})).generation["ja"]
    assert (found.left_out, found.shortened) == ({"empty answer": 1}, 1)


def with_text(outputs, bits, continuations):
    states, head = torch.eye(4)[:3], torch.eye(4)
    likelihood = Likelihood(6, 4, [bits * 3 * 0.6931471805599453] * 2)
    return replace(
        outputs,
        likelihoods={"zh": likelihood},
        distributions={"zh": Distributions([[1, 2, 3, 4]], [states], head)},
        continuations={"zh": continuations},
    )


@pytest.mark.parametrize(
    ("bits", "continuation", "verdict"),
    [(2.0, 2, "kept"), (2.03, 2, "kept"), (2.05, 2, "lost"), (1.0, 2, "kept"), (1.0, 3, "changed")],
)
def test_a_model_is_kept_if_its_text_is_as_likely_and_its_continuations_are_the_same(
    outputs, bits, continuation, verdict
):
    given = tasks(texts=["zh"], retained=["zh"])
    before, after = with_text(outputs, 2.0, [[1], [2]]), with_text(outputs, bits, [[1], [continuation]])
    found = scored(given, after, before, min_unchanged=0.6)
    assert found.retention.verdict == verdict
    assert found.retention.languages["zh"].drift == pytest.approx(bits / 2 - 1)
    assert found.retention.languages["zh"].greedy_unchanged == (1 if continuation == 2 else 0.5)
    assert found.retention.languages["zh"].mean_kl_nats == pytest.approx(0, abs=1e-6)
    assert found.text["zh"].model.bits_per_char == pytest.approx(bits)
    assert found.text["zh"].baseline.bits_per_char == pytest.approx(2.0)
    assert scored(given, after).retention is None


def test_questions_are_compared_by_language_and_id_by_id(outputs):
    given = tasks(questions=["你好", "こんにちは", "さようなら"])
    model = replace(outputs, answers=[reply("好"), reply("はい", ids=[9]), reply("はい", stopped=False)])
    baseline = replace(outputs, answers=[reply("好"), reply("はい"), reply("はい")])
    found = scored(given, model, baseline).questions
    assert list(found) == ["ja", "zh"]  # the order of languages everywhere
    assert (found["zh"].questions, found["zh"].identical) == (1, 1)
    assert (found["ja"].questions, found["ja"].identical, found["ja"].model.stopped) == (2, 1, 0.5)


def test_failed_answers_are_counted_and_means_of_scripts_leave_out_answers_without_letters(outputs):
    given = tasks(questions=["あ", "い", "う", "え", "お"])
    said = ["", " \n", "はい" * 12, "12。", "I know"]
    found = scored(given, replace(outputs, answers=[reply(text) for text in said])).questions["ja"].model
    assert (found.empty, found.blank, found.looping) == (1, 1, 1)
    assert (found.script_purity, found.latin, found.simplified_only) == (0.5, 0.5, None)
