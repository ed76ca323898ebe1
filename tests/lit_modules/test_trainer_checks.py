"""Every strategy of Lightning works, or is refused in one line; nothing changes the plan of a run."""

from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.pytorch import strategies
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, StrategyRegistry

from lit_modules.trainer_checks import Planned, check_strategy_name, check_trainer
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
