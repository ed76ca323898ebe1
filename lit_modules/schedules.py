"""Learning-rate schedules: how they are created from a configuration, and checked before a run."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

# parameters that mean the number of optimizer steps of the run; a schedule is never given it by position
LENGTHS = ("num_steps", "num_training_steps", "total_steps", "T_max")
WORKING = (
    "WarmupCosine of lit_modules, or ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR, "
    "ExponentialLR, LinearLR, MultiStepLR, OneCycleLR, PolynomialLR, StepLR of torch.optim.lr_scheduler"
)

_MAX_TRIED = 100_000  # steps, about a second
_MAX_IDLE = 0.1  # share of a run


class ScheduleFactory(Protocol):
    """Creates a schedule; a configuration gives its class and all arguments but these."""

    # `total_steps` is not here, so that a configuration may give it: OneCycleLR has a default
    def __call__(self, optimizer: Optimizer, /, *, num_steps: int, num_training_steps: int, T_max: int) -> LRScheduler:
        """Returns the schedule. It is given those of the parameters that it has."""
        ...


AnySchedule = ScheduleFactory | Callable[..., LRScheduler]


class WarmupCosine(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then cosine decay."""

    def __init__(self, optimizer: Optimizer, num_steps: int, warmup: float = 0.1, floor: float = 0.0) -> None:
        """Starts at the first step.

        Args:
            optimizer: Optimizer whose learning rate is scheduled.
            num_steps: Number of optimizer steps of the run.
            warmup: Length of the warm-up: a share of the run if below 1, a number of optimizer steps otherwise.
            floor: Learning rate at the end of the run, as a share of the optimizer's.

        Raises:
            ValueError: If `warmup` is negative or longer than the run, `floor` is not between 0 and 1, or the
                optimizer's learning rate is zero.
        """
        if not all(group["lr"] > 0 for group in optimizer.param_groups):
            raise ValueError("the learning rate (`lr`) must be positive: with 0, no weight changes")
        warmup_steps = round(warmup * num_steps) if warmup < 1 else int(warmup)
        if warmup < 0 or warmup_steps > num_steps or not 0 <= floor <= 1:
            raise ValueError(
                f"warmup ({warmup}) must be at least 0 and no longer than the run of {num_steps} steps, and floor "
                f"({floor}) a share from 0 to 1"
            )

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        super().__init__(optimizer, factor)


def create_schedule(factory: AnySchedule, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Creates a schedule; the number of steps goes to the parameters of that meaning, see `LENGTHS`.

    Args:
        factory: Class or function, or what a configuration became.
        optimizer: Optimizer whose learning rate is scheduled.
        num_steps: Number of optimizer steps that it is for.
    """
    function, given = _parts(factory)
    known = inspect.signature(function).parameters
    lengths = {name: num_steps for name in LENGTHS if name in known and given.get(name) is None}
    if given.get("epochs") is not None:  # OneCycleLR's other way to give the length
        lengths.pop("total_steps", None)
    return factory(optimizer, **lengths)


def describe_schedule(factory: AnySchedule) -> dict[str, Any]:
    """Returns name and arguments of a schedule, as types of JSON, without the number of steps of the run."""
    function, given = _parts(factory)
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    arguments = {name: value for name, value in (defaults | given).items() if value is not None}
    return describe(function, arguments)


def describe(made_by: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the name of a class or function and arguments, as types of JSON."""
    plain = {name: _plain(value) for name, value in sorted(arguments.items())}
    return {"class": f"{made_by.__module__}.{made_by.__qualname__}", **plain}


def check_schedule(factory: AnySchedule, create_optimizer: Callable[[], Optimizer], num_steps: int) -> None:
    """Runs a schedule over a run without training.

    Args:
        factory: As in `create_schedule`.
        create_optimizer: Returns a new optimizer of parameters that do not matter, after one step.
        num_steps: Number of optimizer steps that it is for.

    Raises:
        ValueError: If the schedule cannot be created, fails within the run, gives no learning rate, trains nothing for
            a part of the run, needs a metric, or could not be resumed.
    """
    name = _parts(factory)[0].__qualname__
    try:
        schedule = create_schedule(factory, create_optimizer(), num_steps)
        schedule.optimizer.step()  # torch warns if a schedule steps first
        if isinstance(schedule, ReduceLROnPlateau):
            raise ValueError(f"it waits for a metric, and the schedule of a run is planned; use {WORKING}")
        rates = _rates(schedule, min(num_steps, _MAX_TRIED))
        _check_state(schedule)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, ArithmeticError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{str(error) or 'not complete'}; use {WORKING}"
        raise ValueError(f"`lr_scheduler` {name}: {reason}") from error
    wrong = next((i for i, rate in enumerate(rates) if not 0 <= rate < math.inf), None)
    if wrong is not None:
        raise ValueError(f"`lr_scheduler` {name}: the learning rate of step {wrong} would be {rates[wrong]}")
    used = max((i + 1 for i, rate in enumerate(rates) if rate > 0), default=0)
    if len(rates) - used > max(1, _MAX_IDLE * len(rates)):
        raise ValueError(
            f"`lr_scheduler` {name}: the learning rate is 0 from step {used} of {num_steps} on, so nothing would be "
            "trained; make the schedule as long as the run (total_iters, milestones), or the run shorter"
        )


def _rates(schedule: LRScheduler, num_steps: int) -> list[float]:
    rates = []
    for _ in range(num_steps):
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
        schedule.step()
    return rates


def _check_state(schedule: LRScheduler) -> None:
    file = io.BytesIO()
    torch.save([schedule.state_dict(), schedule.optimizer.state_dict()], file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except Exception as error:  # whatever the state holds
        raise ValueError(f"a checkpoint with its state could not be loaded; use {WORKING}") from error


def _parts(factory: AnySchedule) -> tuple[Any, dict[str, Any]]:
    """Returns a class or function and the arguments that it was given; jsonargparse binds a class to its creator."""
    if not isinstance(factory, partial):
        return factory, {}
    created = factory.args[-1] if factory.args else None
    return created if inspect.isclass(created) else factory.func, dict(factory.keywords)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
