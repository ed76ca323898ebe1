"""Every strategy of Lightning works, or is refused in one line; nothing changes the plan of a run."""

from types import SimpleNamespace

import pytest
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch import strategies
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, StrategyRegistry

from lit_modules.trainer_checks import Planned, check_settings, check_strategy_name, check_trainer, strategy_as_class
from lit_modules.zero2 import ZeRO2

WORKING = {
    "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "single_device", "DDPStrategy",
    "SingleDeviceStrategy",
}  # fmt: skip
DEEPSPEED = r"`strategy` {}: Lightning's DeepSpeed strategy divides accumulated .*; set it to lit_modules\.ZeRO2$"
OTHER = r"^`strategy` {} cannot save and resume a run of this project; set it to auto, ddp or lit_modules\.ZeRO2$"
NAMES = sorted([*StrategyRegistry.available_strategies(), *(n for n in strategies.__all__ if n.endswith("Strategy"))])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WORKING])
def test_a_strategy_that_cannot_work_is_refused_by_its_name(name):
    if name in ("ParallelStrategy", "Strategy"):  # abstract
        return
    deepspeed = name.lower().startswith("deepspeed")
    with pytest.raises(ValueError, match=(DEEPSPEED if deepspeed else OTHER).format(name)):
        check_strategy_name(name)


@pytest.mark.parametrize("name", [*sorted(WORKING), "auto", "lit_modules.ZeRO2", "own_package.OwnStrategy"])
def test_other_strategies_are_accepted_by_their_name(name):
    check_strategy_name(name)
    check_strategy_name(f"lightning.pytorch.strategies.{name}")


@pytest.mark.parametrize("strategy", ["auto", "ddp", "own_package.OwnStrategy", Namespace(class_path="x.Y")])
def test_only_the_name_of_zero2_is_taken_as_a_class(strategy):
    assert strategy_as_class(strategy) == strategy
    assert strategy_as_class("lit_modules.ZeRO2") == Namespace(class_path="lit_modules.ZeRO2")


def settings(estimate=None, **changes):
    """Returns the configuration of a run, as the parser gives it."""
    values = {
        "strategy": "auto",
        "accelerator": "cpu",
        "devices": "auto",
        "log_every_n_steps": None,
        "limit_val_batches": None,
        "fast_dev_run": False,
        "val_check_interval": None,
        "check_val_every_n_epoch": 1,
    }
    return Namespace(trainer=Namespace(**values | changes), estimate=estimate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "fsdp"}, "^`strategy` fsdp cannot save"),
        ({"accelerator": "tpu"}, r"^`accelerator` tpu is not supported; set it to auto, cpu or gpu \(or cuda\)$"),
        ({"accelerator": "CPU"}, "^`accelerator` CPU is not supported"),
        ({"accelerator": Namespace(class_path="lightning.pytorch.accelerators.XLAAccelerator")}, "is not supported"),
        ({"devices": -1}, r"^`devices` \(-1\) must be a positive number on the CPU; set it to 1$"),
        ({"devices": "-1", "accelerator": "auto"}, r"^`devices` \(-1\) must be"),
        ({"devices": 0}, r"^`devices` \(0\) must be"),
        ({"devices": [0]}, r"^`devices` \(\[0\]\) must be"),
        ({"log_every_n_steps": -1}, r"^`log_every_n_steps` \(-1\) must be positive, or 0 to log nothing$"),
        ({"val_check_interval": 0}, r"^`val_check_interval` \(0\) must be .*, set `limit_val_batches` to 0$"),
        ({"val_check_interval": 0.0}, r"^`val_check_interval` \(0\.0\) must be positive"),
        ({"check_val_every_n_epoch": 0}, r"^`check_val_every_n_epoch` \(0\) must be positive"),
    ],
)
def test_a_setting_that_would_end_in_a_traceback_is_refused(changes, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        check_settings(settings(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accelerator": Namespace(class_path="lightning.pytorch.accelerators.CPUAccelerator")},
        {"accelerator": "gpu", "devices": -1},
        {"accelerator": "auto", "devices": -1, "estimate": "8xH100"},
        {"devices": "2"},
        {"log_every_n_steps": 0},
        {"val_check_interval": 0, "limit_val_batches": 0},
        {"val_check_interval": 0, "fast_dev_run": True},
        {"val_check_interval": "00:01:00:00"},
        {"val_check_interval": 100, "check_val_every_n_epoch": None},
    ],
)
def test_other_settings_are_accepted(changes, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check_settings(settings(**changes))


def test_all_devices_are_accepted_where_there_are_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_settings(settings(accelerator="auto", devices=-1))


def trainer(**options):
    return Trainer(**{"accelerator": "cpu", "logger": False, "devices": 1, "max_epochs": 1} | options)


@pytest.mark.parametrize(
    "strategy",
    ["auto", "ddp", DDPStrategy(), ZeRO2()],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_strategies_that_work_are_accepted(strategy):
    check_trainer(trainer(strategy=strategy))


@pytest.mark.parametrize(
    "strategy",
    ["ddp_spawn", "ddp_fork", DDPStrategy(start_method="fork")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_strategies_that_fork_are_refused(strategy):
    with pytest.raises(ValueError, match=OTHER.format("DDPStrategy")):
        check_trainer(trainer(strategy=strategy))


@pytest.mark.parametrize(("kind", "message"), [(FSDPStrategy, OTHER), (DeepSpeedStrategy, DEEPSPEED)])
def test_strategies_of_gpus_are_refused(kind, message, monkeypatch):
    made = trainer(strategy=ZeRO2())
    monkeypatch.setattr(made.strategy, "__class__", kind)
    with pytest.raises(ValueError, match=message.format(kind.__name__)):
        check_trainer(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train_batches": 1}, r"limit_train_batches is 1, .*; set `max_steps` instead"),
        ({"limit_train_batches": 2}, r"limit_train_batches is 2, "),
        ({"limit_train_batches": 0.5}, r"limit_train_batches is 0\.5, "),
        ({"overfit_batches": 1}, r"overfit_batches is 1, .*; set `max_steps` instead, and `epochs`"),
        ({"overfit_batches": 0.5}, r"overfit_batches is 0\.5"),
        ({"fast_dev_run": True}, r"limit_train_batches is 1, "),
        ({"gradient_clip_val": -1.0}, "must not be negative: steps would go uphill"),
    ],
)
def test_a_limit_that_contradicts_the_plan_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_trainer(trainer(**options))


@pytest.mark.parametrize("limit", [None, 1.0])
def test_no_limit_is_accepted(limit):
    check_trainer(trainer(limit_train_batches=limit))


def running(**changes):
    values = {"num_training_batches": 12, "accumulate_grad_batches": 2, "max_steps": 6} | changes
    return SimpleNamespace(**values)


def test_a_trainer_that_follows_the_plan_is_accepted():
    Planned.of(running(), 6).check(running())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate_grad_batches": 3}, "num_steps was planned as 6 and has become 4; remove the callback"),
        (
            {"accumulate_grad_batches": 4, "num_training_batches": 24},
            "accumulate_grad_batches was planned as 2",
        ),
        ({"num_training_batches": 2}, "num_steps was planned as 6 and has become 1"),
        ({"max_steps": 3}, "max_steps was planned as 6 and has become 3"),
    ],
)
def test_the_plan_of_a_run_cannot_be_changed_behind_it(changes, message):
    with pytest.raises(ValueError, match=message):
        Planned.of(running(), 6).check(running(**changes))
