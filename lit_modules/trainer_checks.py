"""Settings of the trainer that would train something else than they seem to, or end the run late."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, SingleDeviceXLAStrategy

from lit_modules.callback_checks import check_callbacks
from lit_modules.zero2 import ZeRO2

# names in Lightning's registry, some of which Lightning itself refuses in other words before there is a strategy
_DEEPSPEED = re.compile(r"deepspeed|.*\bDeepSpeedStrategy$")
_OTHERS = re.compile(r"fsdp|.*xla|.*tpu|ddp_(spawn|fork|notebook)|.*\b(FSDP|ModelParallel|(SingleDevice)?XLA)Strategy$")
_ZERO2 = "lit_modules.ZeRO2"
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_CLASSES_OF_ACCELERATORS = ("CPUAccelerator", "CUDAAccelerator", "MPSAccelerator")


def strategy_as_class(strategy: Any) -> Any:
    """Returns the configuration of a strategy, with the name of this project's own as that of a class.

    The parser takes any text as one of Lightning's names of strategies, and would look for the class in its registry.
    """
    return Namespace(class_path=strategy) if strategy == _ZERO2 else strategy


def check_settings(config: Namespace) -> None:
    """Checks settings of the trainer that end in a traceback of Lightning, before it is created.

    Args:
        config: Configuration of the run.

    Raises:
        ValueError: If the strategy cannot train, save and resume a run, the accelerator is not supported, the number
            of devices is not one of the CPU, or an interval is not positive.
    """
    trainer = config.trainer
    check_strategy_name(str(getattr(trainer.strategy, "class_path", trainer.strategy)))
    accelerator = str(getattr(trainer.accelerator, "class_path", trainer.accelerator))
    if accelerator not in _ACCELERATORS and not accelerator.endswith(_CLASSES_OF_ACCELERATORS):
        raise ValueError(f"`accelerator` {accelerator} is not supported; set it to auto, cpu or gpu (or cuda)")
    if not config.estimate:  # which is for other machines
        _check_devices(accelerator, str(trainer.devices))
    if trainer.log_every_n_steps is not None and trainer.log_every_n_steps < 0:
        raise ValueError(f"`log_every_n_steps` ({trainer.log_every_n_steps}) must be positive, or 0 to log nothing")
    if trainer.limit_val_batches == 0 or trainer.fast_dev_run:  # the intervals are not used
        return
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        value = getattr(trainer, name)
        if isinstance(value, int | float) and value <= 0:
            raise ValueError(
                f"`{name}` ({value}) must be positive; to leave validation out, set `limit_val_batches` to 0"
            )


def _check_devices(accelerator: str, devices: str) -> None:
    has_gpus = torch.cuda.device_count() or torch.backends.mps.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not has_gpus)
    if on_cpu and devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise ValueError(f"`devices` ({devices}) must be a positive number on the CPU; set it to 1")


def check_trainer(trainer: Trainer) -> None:
    """Checks strategy, precision, clipping, limits and callbacks.

    Raises:
        ValueError: If one of them cannot work, or contradicts the plan of the run.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ZeRO2):
        raise ValueError(_deepspeed(name))
    works = isinstance(strategy, DDPStrategy | ZeRO2 | SingleDeviceStrategy)
    if not works or isinstance(strategy, SingleDeviceXLAStrategy) or getattr(strategy, "_start_method", None) in _FORKS:
        raise ValueError(_other(name))
    precision = str(trainer.precision)
    if precision.endswith("16-true") and not isinstance(strategy, ZeRO2):  # which keeps weights in fp32 as well
        raise ValueError(
            f"`precision` {precision} would train in 16 bits, in which most updates are rounded to nothing; set it to "
            f"{precision.replace('true', 'mixed')}"
        )
    clip = trainer.gradient_clip_val or 0
    if clip < 0:
        raise ValueError(f"trainer.gradient_clip_val ({clip}) must not be negative: steps would go uphill")
    check_limits(trainer)
    check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]


_FORKS = ("spawn", "fork", "forkserver")


def check_strategy_name(name: str) -> None:
    """Checks the name of a strategy, or of its class, before Lightning creates it.

    Raises:
        ValueError: If it cannot train, save and resume a run.
    """
    if _DEEPSPEED.match(name):
        raise ValueError(_deepspeed(name))
    if _OTHERS.match(name):
        raise ValueError(_other(name))


def _deepspeed(name: str) -> str:
    return (
        f"`strategy` {name}: Lightning's DeepSpeed strategy divides accumulated gradients twice and does not verify "
        "checkpoints; set it to lit_modules.ZeRO2"
    )


def _other(name: str) -> str:
    return f"`strategy` {name} cannot save and resume a run of this project; set it to auto, ddp or lit_modules.ZeRO2"


def check_dtype(trainer: Trainer, dtype: torch.dtype) -> None:
    """Checks that frozen weights of a dtype can be computed with together with trainable ones, which are fp32.

    Raises:
        ValueError: If they cannot.
    """
    if dtype != torch.float32 and trainer.precision == "32-true":
        raise ValueError(
            f"the weights are {dtype}, the trainable ones fp32, and `precision` is 32-true: set `precision` to "
            "bf16-mixed, or `dtype` to float32"
        )


def check_limits(trainer: Trainer) -> None:
    """Checks that no limit of the trainer contradicts the plan of the run.

    Raises:
        ValueError: If there is one.
    """
    limit: int | float = trainer.limit_train_batches
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError(
            f"trainer.overfit_batches is {trainer.overfit_batches}, which contradicts the plan of the run; set "  # type: ignore[attr-defined]
            "`max_steps` instead, and `epochs` to repeat a small file"
        )
    if isinstance(limit, int) or limit != 1.0:  # the integer is one micro-batch
        raise ValueError(
            f"trainer.limit_train_batches is {limit!r}, which contradicts the plan of the run; set `max_steps` instead"
        )


@dataclass(frozen=True)
class Planned:
    """Settings that determine the number of micro-batches and optimizer steps of a run.

    Attributes:
        num_steps: Number of optimizer steps.
        accumulate_grad_batches: Micro-batches of a step on each rank.
        max_steps: Limit of the trainer.
    """

    num_steps: int
    accumulate_grad_batches: int
    max_steps: int

    @classmethod
    def of(cls, trainer: Trainer, num_steps: int) -> Planned:
        """Returns what a trainer has planned."""
        return cls(num_steps, trainer.accumulate_grad_batches, trainer.max_steps)

    def check(self, trainer: Trainer) -> None:
        """Checks that the trainer still does what was planned.

        Raises:
            ValueError: If a callback or a setting has changed it.
        """
        now = Planned.of(trainer, int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        for field in fields(self):
            planned, found = getattr(self, field.name), getattr(now, field.name)
            if planned != found:
                raise ValueError(
                    f"trainer: {field.name} was planned as {planned} and has become {found}; remove the callback or "
                    "setting that changes it"
                )
