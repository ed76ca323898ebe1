import math
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lit_modules import WarmupCosine
from lit_modules import schedules as schedules_module
from lit_modules.schedules import check_schedule, create_schedule, describe_schedule


def rates(num_steps, **others):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, num_steps, **others)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup", [0.2, 20])
def test_the_rate_rises_to_its_maximum_and_falls_to_the_floor(warmup):
    seen = rates(100, warmup=warmup, floor=0.1)
    assert seen[:21] == sorted(seen[:21])
    assert seen[20] == max(seen) == 2.0
    assert seen[20:] == sorted(seen[20:], reverse=True)
    assert 0.2 <= seen[-1] < 0.205


def test_without_warmup_it_starts_at_the_full_rate():
    assert rates(10, warmup=0)[0] == 2.0


@pytest.mark.parametrize("others", [{"warmup": -1}, {"warmup": 11}, {"floor": 2.0}])
def test_a_schedule_that_does_not_fit_the_run_is_refused(others):
    with pytest.raises(ValueError, match="no longer than the run of 10 steps"):
        rates(10, **others)


NUM_STEPS = 20
COSINE = [1 + math.cos(math.pi * i / NUM_STEPS) for i in range(NUM_STEPS)]
# class → arguments that a user gives, learning rates of a run of 20 steps at rate 2 (None: only checked for sanity)
WORKING = {
    "ConstantLR": ({"factor": 0.5, "total_iters": 2}, [1.0, 1.0] + [2.0] * 18),
    "CosineAnnealingLR": ({}, COSINE),
    "CosineAnnealingWarmRestarts": ({"T_0": 10}, [1 + math.cos(math.pi * (i % 10) / 10) for i in range(NUM_STEPS)]),
    "CyclicLR": ({"base_lr": 1.0, "max_lr": 2.0, "step_size_up": 10}, [1 + min(i, 20 - i) / 10 for i in range(20)]),
    "ExponentialLR": ({"gamma": 0.9}, [2 * 0.9**i for i in range(NUM_STEPS)]),
    "LinearLR": ({"start_factor": 0.5, "total_iters": 2}, [1.0, 1.5] + [2.0] * 18),
    "MultiStepLR": ({"milestones": [5]}, [2.0] * 5 + [0.2] * 15),
    "OneCycleLR": ({"max_lr": 2.0}, None),
    "PolynomialLR": ({"total_iters": NUM_STEPS}, [2 * (1 - i / NUM_STEPS) for i in range(NUM_STEPS)]),
    "StepLR": ({"step_size": 10}, [2.0] * 10 + [0.2] * 10),
}
REFUSED = {
    "ChainedScheduler": "use WarmupCosine of lit_modules, or ConstantLR",
    "LRScheduler": "not complete; use WarmupCosine",
    "LambdaLR": "missing 1 required positional argument: 'lr_lambda'; use WarmupCosine",
    "MultiplicativeLR": "missing 1 required positional argument: 'lr_lambda'; use WarmupCosine",
    "ReduceLROnPlateau": "waits for a metric, and the schedule of a run is planned; use WarmupCosine",
    "SequentialLR": "missing 2 required positional arguments: 'schedulers' and 'milestones'; use WarmupCosine",
    "_LRScheduler": "not complete; use WarmupCosine",
}


def optimizer(lr=2.0):
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    made = torch.optim.SGD([parameter], lr=lr, momentum=0.5)
    made.step()
    return made


def test_the_tables_have_every_schedule_of_torch():
    schedules = {n for n, c in vars(lr_scheduler).items() if isinstance(c, type) and issubclass(c, LRScheduler)}
    assert WORKING.keys() | REFUSED.keys() == schedules
    assert all(name in schedules_module.WORKING for name in WORKING)


@pytest.mark.parametrize("name", sorted(WORKING))
def test_a_schedule_receives_the_values_its_own_parameters_mean(name):
    arguments, expected = WORKING[name]
    create = partial(getattr(lr_scheduler, name), **arguments)
    check_schedule(create, optimizer, NUM_STEPS)
    made = optimizer()
    schedule, seen = create_schedule(create, made, NUM_STEPS), []
    for _ in range(NUM_STEPS):
        seen.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    if expected is None:  # one cycle: up to max_lr after 30 % of the run, and down to nearly nothing at its end
        assert max(seen) == pytest.approx(2.0)
        assert seen.index(max(seen)) == 5
        assert seen[-1] < 1e-3
    else:
        assert seen == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_schedule_that_cannot_work_is_refused_with_those_that_work(name):
    with pytest.raises(ValueError, match=f"^`lr_scheduler` {name}: .*{REFUSED[name]}"):
        check_schedule(getattr(lr_scheduler, name), optimizer, NUM_STEPS)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("PolynomialLR", {}, "the learning rate is 0 from step 5 of 20 on, so nothing would be trained"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 10}, "Tried to step 11 times"),
        ("ExponentialLR", {"gamma": -1.0}, r"the learning rate of step 1 would be -2\.0"),
        ("LambdaLR", {"lr_lambda": lambda step: float("nan")}, "the learning rate of step 0 would be nan"),
    ],
)
def test_a_schedule_that_fails_within_the_run_is_refused_before_it(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        check_schedule(partial(getattr(lr_scheduler, name), **arguments), optimizer, NUM_STEPS)


class HoldsCode(lr_scheduler.ExponentialLR):
    """Keeps an object of a class in its state."""

    def __init__(self, optimizer):
        self.other = HoldsCode
        super().__init__(optimizer, 0.9)


def test_a_schedule_whose_state_cannot_be_loaded_is_refused():
    with pytest.raises(ValueError, match="a checkpoint with its state could not be loaded; use WarmupCosine"):
        check_schedule(HoldsCode, optimizer, NUM_STEPS)


def test_the_description_of_a_schedule_leaves_out_the_length_of_the_run():
    described = {"class": "lit_modules.schedules.WarmupCosine", "floor": 0.0, "warmup": 0.1}
    assert describe_schedule(WarmupCosine) == describe_schedule(partial(WarmupCosine, warmup=0.1)) == described
