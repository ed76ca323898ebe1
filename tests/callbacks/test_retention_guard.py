import json
import math

import numpy as np
import pytest

from callbacks.retention_guard import RetentionGuard, measure
from glmja import fit
from glmja.errors import DriftError
from glmja.runs import manifest
from glmja.runs.run_folder import RunFolder
from glmja.twin.build import text_file
from tests.support.demo_run import args
from tests.support.tiny_run import scalars

WEIGHTS = {"ja": 1.0, "zh": 1e-9, "en": 1e-9}


def guarded(zero_dir, folder, max_drift, **others):
    """Returns arguments of a run that drifts: the rate is high, and the only text that is trained on is Japanese."""
    guard = {"class_path": "callbacks.RetentionGuard", "init_args": {"languages": ["zh", "en"], "max_drift": max_drift}}
    sources = [{"name": x, "lang": x, "files": [str(text_file(x))], "weight": w} for x, w in WEIGHTS.items()]
    values = {
        "data.init_args.sources": json.dumps(sources),
        "trainer.callbacks": json.dumps([guard]),
        "trainer.limit_val_batches": 1.0,
        "model.init_args.optimizer.init_args.lr": 0.02,
        "model.init_args.lr_scheduler.init_args.warmup": 0.0,
    }
    return args(zero_dir, folder, "demo_pretrain", **values | others)


def rows(values):
    return {f"zh:{i}": value for i, value in enumerate(values)}


def test_the_drift_is_the_increase_of_the_sum_and_does_not_hang_on_the_rows_that_changed_most():
    before = np.full(100, 50.0)
    now = before * 1.01
    now[7], now[8] = 500.0, 1.0
    drift = measure(rows(before), rows(now))
    assert drift.num_rows == 100
    assert drift.trimmed == pytest.approx(0.01) and drift.low == pytest.approx(0.01) == pytest.approx(drift.high)
    assert drift.mean == pytest.approx(now.sum() / before.sum() - 1) and drift.mean > 0.08


def test_the_interval_holds_the_drift_and_narrows_with_more_rows():
    generator = np.random.default_rng(1)
    few, many = (
        measure(rows(before), rows(before * generator.normal(1.02, 0.05, len(before))))
        for before in (generator.uniform(50, 100, n) for n in (20, 2000))
    )
    for drift in (few, many):
        assert drift.low < drift.trimmed < drift.high
    assert many.high - many.low < (few.high - few.low) / 4
    assert abs(many.trimmed - 0.02) < 0.01


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_rows_none_is_left_out(count):
    assert measure(rows([10.0] * count), rows([11.0] * count)).trimmed == pytest.approx(0.1)


def test_a_loss_that_is_not_finite_is_a_drift():
    assert math.isnan(measure(rows([1.0]), rows([math.nan])).trimmed)
    guard = RetentionGuard(["zh"])
    guard.drift = {"zh": math.nan}
    with pytest.raises(DriftError, match="of zh have risen by nan%"):
        guard._check()


def test_other_validation_rows_are_refused():
    with pytest.raises(ValueError, match=r"2 validation rows differ from those before training; set trainer.limit_val"):
        measure({"zh:1": 1.0, "zh:2": 1.0}, {"zh:1": 1.0, "zh:3": 1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": []}, "languages is empty; name the languages to keep"),
        ({"languages": ["zh"], "max_drift": 0.0}, r"max_drift \(0.0\) must be positive; 0.02 is 2 %"),
        ({"languages": ["zh"], "max_drift": math.nan}, r"max_drift \(nan\) must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetentionGuard(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer.num_sanity_val_steps": 1}, "needs all validation data before training; set trainer.num_sanity_val_"),
        ({"trainer.limit_val_batches": 0}, "needs all validation data before training"),
        ({"data.init_args.val_share": 0}, "the language zh has no validation data, only ; correct languages, or set"),
    ],
)
def test_a_run_without_values_before_training_is_refused(zero_dir, tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit) as stop:
        fit.main(guarded(zero_dir, tmp_path, 0.1, **changes))
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_run_that_drifts_warns_saves_its_step_and_ends_and_is_not_resumed_with_the_same_limit(
    zero_dir, tmp_path, capsys, caplog
):
    with pytest.raises(SystemExit) as stop:
        fit.main(guarded(zero_dir, tmp_path, 0.001, **{"trainer.val_check_interval": 5}))
    assert stop.value.code == 7
    shown = capsys.readouterr()
    assert "have risen by" in shown.err and "more than RetentionGuard's max_drift (0.10%)" in shown.err
    assert "raise the weight of --model.retention or the share of" in shown.err
    assert "bits per character since before training, step 2" in shown.out
    assert any("at 0.10 %, the run ends" in record.message for record in caplog.records)
    # the first validation is within the third step; the run ends after that step, and not before it can be saved
    assert manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).step == 3
    assert max(scalars(tmp_path / "run", f"val/{x}/drift")[2] for x in ("zh", "en")) > 0.001
    with pytest.raises(SystemExit) as stop:
        fit.main([*guarded(zero_dir, tmp_path, 0.001), "--ckpt_path=last"])
    assert stop.value.code == 7
    assert fit.main([*guarded(zero_dir, tmp_path, 1e6), "--ckpt_path=last"]).global_step == 7


def test_a_run_within_the_limit_goes_on_and_logs_its_drift(zero_dir, tmp_path):
    assert fit.main(guarded(zero_dir, tmp_path, 1e6)).global_step == 7
    logged = {name: scalars(tmp_path / "run", f"val/en/drift{name}") for name in ("", "_low", "_high", "_mean")}
    assert all(len(values) == 4 for values in logged.values())
    for step, drift in logged[""].items():
        assert logged["_low"][step] <= drift <= logged["_high"][step]
    # what the report page of `evaluate --runs` plots
    curves = RunFolder(tmp_path / "run").curves()
    assert {tag for tag in curves if tag.endswith("/drift")} == {"val/zh/drift", "val/en/drift"}
    assert dict(curves["val/en/drift"]) == logged[""]


def test_a_checkpoint_without_values_before_training_is_refused(zero_dir, tmp_path, capsys):
    fit.main(args(zero_dir, tmp_path, "demo_pretrain", **{"trainer.max_steps": 2, "trainer.callbacks": "[]"}))
    with pytest.raises(SystemExit) as stop:
        fit.main([*guarded(zero_dir, tmp_path, 0.1), "--ckpt_path=last"])
    assert stop.value.code == 4
