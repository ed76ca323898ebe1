"""Describes in one line what a run trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from glmja.text.terminal import show


class ModelLine(Callback):
    """Prints the number of parameters, how many of them are trained, their dtypes, and on what they are trained."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line in the first process."""
        if trainer.is_global_zero:
            show(f"{describe_parameters(pl_module)}; {_place(trainer)}")


def describe_parameters(model: nn.Module) -> str:
    """Counts parameters, such as `model: 1,000 parameters, of them 10 trained (float32), 990 frozen (bfloat16)`."""
    parameters = list(model.parameters())
    parts = [("trained", [p for p in parameters if p.requires_grad])]
    parts.append(("frozen", [p for p in parameters if not p.requires_grad]))
    counts = [f"{_count(found):,} {what} ({_dtypes(found)})" for what, found in parts if found]
    return f"model: {_count(parameters):,} parameters, of them {', '.join(counts)}"


def _place(trainer: Trainer) -> str:
    device, number = trainer.strategy.root_device, trainer.world_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"on {number} × {name} in {trainer.precision}"


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _dtypes(parameters: Iterable[nn.Parameter]) -> str:
    return ", ".join(dict.fromkeys(str(parameter.dtype).removeprefix("torch.") for parameter in parameters))
