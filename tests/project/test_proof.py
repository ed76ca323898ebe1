"""`benchmarks.proof`: its arithmetic, its tables, and the whole on the smallest scale."""

import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks.proof import __main__ as proof
from benchmarks.proof import arm_results, findings, models, texts, training
from benchmarks.proof.arm_results import BASE, Result
from benchmarks.proof.curve import window_bits
from benchmarks.proof.settings import ARMS, LANGUAGES, NARROW, RECOMMENDED, ROW_LEN, SHARES, SMOKE, WIDE, WIDE_ARMS
from benchmarks.proof.vocabulary import formed, prune
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.modeling.loading import load_model
from glmja.tokenization.vocabulary import isolated_processor
from glmja.twin import build as twin

KEPT = next(arm for arm in ARMS if arm.name == RECOMMENDED)


def result(arm, ja, seed=0, zh=400.0, en=300.0, scale=NARROW, **changes):
    """A result whose windows are around the given bits, with the same noise in all arms."""
    noise = [0.9, 1.0, 1.1, 0.95, 1.05]
    bits = {
        str(share): {"ja": [x * n for n in noise], "zh": [zh * n for n in noise], "en": [en * n for n in noise]}
        for share, x in zip(SHARES, ja, strict=True)
    }
    flops = {"training": 2.4e12, "teacher": 1e11, "calibration": 0.0}
    found = Result(
        arm, seed, arm_results.describe(scale), 10, 1000, flops, {x: [100] * 5 for x in LANGUAGES}, 9.0, bits
    )
    return replace(found, **changes)


def measured(*found):
    base = result(BASE, [700.0] * 5)
    return {BASE: [base]} | {one.arm: [other for other in found if other.arm == one.arm] for one in found}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The proof on the smallest scale, with the arm that uses most of it."""
    work = tmp_path_factory.mktemp("proof")
    proof.main(["--smoke", "--output", str(work), "--arms", KEPT.key, "--markdown", str(work / "tables.md")])
    return work


def test_the_smoke_ends_in_tables_and_a_picture(smoke):
    tables = (smoke / "tables.md").read_text("utf-8")
    assert tables.count(f"\n| {RECOMMENDED} | ") == 2 and "no cost in ja" not in tables  # nothing to compare with
    assert (smoke / "proof.png").stat().st_size > 5_000


def test_every_run_is_measured_at_all_shares_and_has_used_its_budget(smoke):
    found = arm_results.load_all(smoke / "results", SMOKE)
    for run in found[RECOMMENDED]:
        assert list(run.bits) == [str(share) for share in SHARES]
        assert [len(run.at(share, "zh")) for share in SHARES] == [6, 3, 3, 3, 6]
        assert sum(run.flops.values()) <= SMOKE.flops < sum(run.flops.values()) * (1 + 1 / run.steps)
        assert run.flops["teacher"] > 0 and run.flops["calibration"] > 0
        assert run.characters["ja"][0] > run.characters["zh"][0] > 0
        assert (run.at(1.0, "ja")[:3] != run.at(0.5, "ja")).all()


def test_a_run_that_is_complete_is_not_trained_again(smoke, capsys):
    path = smoke / "results" / f"{KEPT.key}-0.json"
    before = path.read_text("utf-8")
    path.unlink()
    proof.main(["--smoke", "--output", str(smoke), "--arms", KEPT.key])
    assert path.read_text("utf-8") == before
    assert "1 of 1" in capsys.readouterr().out


def test_all_tokenizers_predict_the_same_characters_of_a_window(smoke):
    windows = texts.held_out_windows(smoke / "texts", SMOKE)
    old, ours = (isolated_processor(load_tokenizer(smoke / name).proto) for name in ("base", "ours"))
    for window in windows["ja"]:
        assert old.decode(old.encode(window.predicted)) == ours.decode(ours.encode(window.predicted))
    assert any(len(old.encode(w.predicted)) > len(ours.encode(w.predicted)) for w in windows["ja"])


def test_the_bits_of_a_window_are_those_of_its_predicted_tokens(smoke):
    model, tokenizer = load_model(smoke / "base"), load_tokenizer(smoke / "base")
    window = texts.held_out_windows(smoke / "texts", SMOKE)["ja"][0]
    given, predicted = (isolated_processor(tokenizer.proto).encode(text) for text in window)
    with torch.inference_mode():
        logits = model(torch.tensor([given + predicted])).logits[0, :, : len(tokenizer)].double()
    log_probs = logits.log_softmax(-1)
    nats = -sum(float(log_probs[len(given) + i - 1, token_id]) for i, token_id in enumerate(predicted))
    (bits,) = window_bits(model, tokenizer, {"ja": [window]})["ja"]
    assert bits == pytest.approx(nats / math.log(2), abs=0.02)


def test_without_growth_as_many_characters_take_more_operations(smoke):
    same, more = (next(arm for arm in ARMS if arm.name == name) for name in (findings.NO_GROWTH, findings.AS_MANY))
    base = smoke / "base"
    few, many = (training.plan(smoke, arm, base, 0, SMOKE) for arm in (same, more))
    assert few.training == many.training
    assert few.training * few.steps * SMOKE.batch_size * ROW_LEN <= SMOKE.flops
    assert many.steps > training.plan(smoke, KEPT, *models.make_zero(smoke, KEPT, 0, SMOKE), SMOKE).steps


def test_parts_share_no_document_and_replayed_text_is_of_its_own_sources(tmp_path):
    records = [{"text": f"{source} {i} " + "字" * 40, "source": source}
               for source in ("cmrc2018", "python-docs", "chinese-poetry") for i in range(40)]  # fmt: skip
    path = tmp_path / "zh.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    scale = replace(NARROW, characters={"zh": {"held_out": 500, "base": 600, "train": 700}})
    texts.split({"zh": path}, tmp_path, scale)
    parts = {part: set(read_documents([tmp_path / f"zh.{part}.jsonl"])) for part in ("held_out", "base", "train")}
    assert not parts["held_out"] & parts["base"]
    assert {text.split()[0] for text in parts["train"]} == {"cmrc2018"}
    assert {text.split()[0] for text in parts["held_out"] | parts["base"]} == {"python-docs"}
    joined = list(read_documents([tmp_path / "zh.joined.jsonl"]))
    assert len(joined) == 1 and set(joined[0].split("\n")) == parts["train"]


def test_too_little_text_is_refused(tmp_path):
    path = tmp_path / "zh.jsonl"
    path.write_text(json.dumps({"text": "字" * 40, "source": "x"}) + "\n", "utf-8")
    scale = replace(NARROW, characters={"zh": {"held_out": 500}})
    with pytest.raises(ValueError, match=r"zh.jsonl: only 40 characters for held_out; 500 needed"):
        texts.split({"zh": path}, tmp_path, scale)
    with pytest.raises(ValueError, match="the held-out text has 1 windows of 35 characters, not 2"):
        texts.windows(["字" * 40], (10, 20), 2)


def test_a_pruned_vocabulary_has_every_piece_on_the_way_to_those_that_it_keeps():
    files = {lang: list(read_documents([twin.text_file(lang)])) for lang in LANGUAGES}
    full = twin.parse_proto(twin.train_vocabulary([text for found in files.values() for text in found], 2500))
    pruned = prune(full, files, models.BASE_MIX, 1200)
    kept = {piece.piece: piece.score for piece in pruned.pieces if piece.type == 1}
    assert 1200 <= len(kept) < 1210
    assert all(formed(piece, kept) <= kept.keys() for piece in kept)
    assert len(pruned.pieces) - len(kept) == sum(piece.type != 1 for piece in full.pieces)
    with pytest.raises(ValueError, match="pieces of the vocabulary, fewer than 2500"):
        prune(full, files, models.BASE_MIX, 2500)


def test_differences_are_relative_and_paired():
    found = measured(result("a", [700] * 5), result("b", [700, 700, 700, 700, 630]))
    for value in findings.difference(found, "b", "a", "ja"):
        assert value == pytest.approx(-0.1)  # the windows differ, their ratio does not


def test_seeds_are_averaged_window_by_window():
    found = measured(result("a", [700] * 5), result("a", [500] * 5, seed=1))
    assert findings.per_character(found, "a", 1.0, "ja") == pytest.approx(6.0)


def test_a_curve_is_measured_on_the_same_windows_at_every_share():
    long, short = [700.0, 700.0, 100.0], [700.0, 700.0]
    bits = {str(share): dict.fromkeys(LANGUAGES, long if share in (0.0, 1.0) else short) for share in SHARES}
    found = measured(result("a", [700] * 5, bits=bits))
    assert findings.curve(found, "a") == [pytest.approx(7.0)] * 5
    assert findings.per_character(found, "a", 1.0, "ja") == pytest.approx(5.0)


def test_the_share_at_which_an_arm_overtakes_anothers_end_is_found():
    slow = result("slow", [900, 850, 800, 700, 600])
    found = measured(slow, result("fast", [900, 620, 600, 550, 500]), result("worse", [900, 800, 800, 700, 650]))
    assert findings.share_to_reach(found, "fast", "slow") == 0.25
    assert findings.share_to_reach(found, "slow", "slow") == 1.0
    assert findings.share_to_reach(found, "worse", "slow") is None


def test_targets_that_are_missed_are_shown_as_missed():
    kept = result(RECOMMENDED, [700, 690, 680, 650, 600], zh=408.0)
    found = measured(result(findings.KNOWN, [760, 740, 720, 700, 620]), kept)
    rows = {target: (value, met) for target, value, met in findings.targets_table(found).rows}
    assert rows[f"{RECOMMENDED}: zh drift at most +1 %"] == ("+2.0% [+2.0, +2.0]", "**no**")
    assert rows[f"{RECOMMENDED}: en drift at most +1 %"][1] == "yes"
    assert rows[f"{RECOMMENDED}: ja at least 5 % below the known recipe"][1] == "**no**"
    assert rows[f"{RECOMMENDED}: the known recipe's last ja by 25 %"] == ("at 100% of the budget", "**no**")


def test_results_of_other_settings_are_not_compared(tmp_path):
    arm_results.save(result(BASE, [700] * 5), tmp_path / "base.json")
    assert arm_results.load(tmp_path / "base.json", NARROW) == result(BASE, [700] * 5)
    with pytest.raises(ValueError, match=r"base\.json was measured with other settings; give another folder"):
        arm_results.load_all(tmp_path, SMOKE)


def test_results_have_the_order_of_the_arms_and_those_of_former_arms_come_last(tmp_path):
    for arm in (RECOMMENDED, "former arm", findings.KNOWN, BASE):
        arm_results.save(result(arm, [700] * 5), tmp_path / f"{arm[:5]}.json")
    assert list(arm_results.load_all(tmp_path, NARROW)) == [BASE, findings.KNOWN, RECOMMENDED, "former arm"]


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        proof.main(["--smoke", "--arms", "nothing"])
    assert "--arms nothing is not one of known_recipe, calibrated" in capsys.readouterr().err


def test_first_seeds_run_before_second_ones():
    runs = proof.select(None)
    assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)
    assert len(runs) == len({(arm.key, seed) for arm, seed in runs}) == sum(len(arm.seeds) for arm in ARMS)


def test_the_wider_model_reads_the_same_texts_and_trains_the_arms_of_the_targets():
    assert (WIDE.characters, WIDE.spans, WIDE.old_pieces) == (NARROW.characters, NARROW.spans, NARROW.old_pieces)
    names = {arm.name for arm, _ in proof.select(None, WIDE_ARMS)}
    assert (
        {RECOMMENDED, "calibrated", findings.KNOWN, findings.NO_GROWTH, findings.AS_MANY}
        <= names
        < {arm.name for arm in ARMS}
    )
    assert [arm.name for arm, _ in proof.select(["calibrated_at_12"], WIDE_ARMS)] == ["calibrated at 12 %"]


@pytest.mark.slow
def test_all_arms_run_on_the_smallest_scale(tmp_path):
    proof.main(["--smoke", "--output", str(tmp_path)])
    assert arm_results.load_all(tmp_path / "results", SMOKE).keys() == {BASE, *(arm.name for arm in ARMS)}
