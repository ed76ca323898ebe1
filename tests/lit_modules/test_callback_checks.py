"""Every callback of Lightning works in a run, or is refused in one line before it."""

from datetime import timedelta

import pytest
from lightning import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor, ModelCheckpoint, Timer

from lit_modules.callback_checks import REFUSED, check_callbacks, check_monitors

WORKING = {
    "BasePredictionWriter", "Callback", "Checkpoint", "DeviceStatsMonitor", "EarlyStopping", "LambdaCallback",
    "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "ProgressBar", "RichModelSummary", "RichProgressBar",
    "TQDMProgressBar", "Timer",
}  # fmt: skip
ARGUMENTS = {
    "BasePredictionWriter": {"write_interval": "batch"},
    "EarlyStopping": {"monitor": "val/ja/loss"},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "x"},
    "StochasticWeightAveraging": {"swa_lrs": 0.1},
    "ThroughputMonitor": {"batch_size_fn": len},
}
LOGGED = {"train/loss", "val/ja/loss", "val/ja/bits_per_char"}


def create(name):
    return getattr(lightning_callbacks, name)(**ARGUMENTS.get(name, {}))


def is_refused(name):
    return issubclass(getattr(lightning_callbacks, name), tuple(REFUSED))


def test_the_tables_have_every_callback():
    refused = {name for name in lightning_callbacks.__all__ if is_refused(name)}
    assert WORKING | refused == set(lightning_callbacks.__all__)
    assert not WORKING & refused


@pytest.mark.parametrize("name", sorted(WORKING))
def test_a_callback_that_works_is_accepted(name):
    check_callbacks([create(name)])


@pytest.mark.parametrize("name", sorted(set(lightning_callbacks.__all__) - WORKING))
def test_a_callback_that_cannot_work_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=rf"^trainer\.callbacks: {name} cannot be used: .*") as refused:
        check_callbacks([create(name)])
    assert "\n" not in str(refused.value)


def test_a_timer_that_never_rings_is_refused():
    with pytest.raises(ValueError, match="Timer with interval epoch would never end the run"):
        check_callbacks([Timer(timedelta(hours=1), interval="epoch")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_last": True}, r"checkpoint\.save_last \(True\) would overwrite a checkpoint"),
        ({"save_last": "link"}, r"checkpoint\.save_last \(link\) would overwrite a checkpoint"),
        ({"filename": "best"}, r"checkpoint\.filename \(best\) needs a {step}"),
        ({"filename": "{epoch}"}, r"checkpoint\.filename \({epoch}\) needs a {step}"),
        ({"save_weights_only": True}, r"checkpoint\.save_weights_only: the run could not be resumed"),
        ({"save_on_exception": True}, r"checkpoint\.save_on_exception would save between the micro-batches"),
    ],
)
def test_checkpoints_that_could_not_be_saved_or_resumed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_callbacks([ModelCheckpoint(**arguments)])


@pytest.mark.parametrize("arguments", [{}, {"filename": "{epoch}-{step:06d}"}, {"filename": "step={step}"}])
def test_a_name_with_a_step_is_accepted(arguments):
    check_callbacks([ModelCheckpoint(**arguments)])


def monitor(*callbacks, **options):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=False, **options)
    check_monitors(trainer, LOGGED)


class OwnCallback(Callback):
    """A callback of a user, which may log whatever it wants."""


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_monitor_that_nothing_logs_is_refused_with_those_that_are(kind):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[kind(monitor="val/loss")])
    known = "train/loss, val/ja/bits_per_char, val/ja/loss"
    with pytest.raises(ValueError, match=f"{kind.__name__}: nothing logs the monitor val/loss; logged are {known}$"):
        check_monitors(trainer, LOGGED)


def test_without_validation_no_metric_of_it_is_logged():
    with pytest.raises(ValueError, match=r"nothing logs the monitor val/ja/loss; logged are train/loss$"):
        monitor(EarlyStopping(monitor="val/ja/loss"), limit_val_batches=0)


def test_the_worst_value_is_not_preferred():
    with pytest.raises(ValueError, match="monitor val/ja/loss with mode max would prefer the worst value"):
        monitor(EarlyStopping(monitor="val/ja/loss", mode="max"))


def test_names_that_are_or_may_be_logged_are_accepted():
    monitor(EarlyStopping(monitor="val/ja/loss"), LambdaCallback())
    monitor(EarlyStopping(monitor="own"), OwnCallback())
    monitor(EarlyStopping(monitor="lr-AdamW"), LearningRateMonitor())
    check_monitors(Trainer(accelerator="cpu", logger=False, callbacks=[ModelCheckpoint(monitor="step")]), LOGGED)
