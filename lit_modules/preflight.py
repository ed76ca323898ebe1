"""Memory and disk that a run needs, estimated from shapes before any weights are loaded, and the port it needs."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import asdict
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from glmja.errors import MachineError
from lit_modules.base import GLMModule
from lit_modules.memory import DeviceLayout, MemoryEstimate, model_memory


def estimate_memory(module: GLMModule, trainer: Trainer) -> MemoryEstimate:
    """Estimates the memory of a run; see `lit_modules.memory.model_memory`."""
    with isolate_rng():  # peft draws initial weights for the adapters even without memory for them
        model = module.outline()
    return model_memory(model, state_bytes_per_parameter(module.try_optimizer()), DeviceLayout.of(trainer))


def state_bytes_per_parameter(optimizer: Optimizer) -> int:
    """Returns the bytes of state that an optimizer keeps for each trainable parameter, after its first step."""
    parameter = optimizer.param_groups[0]["params"][0]
    tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1) // parameter.numel()


def check_memory(needs: MemoryEstimate, trainer: Trainer) -> None:
    """Checks that weights, gradients and optimizer state fit into memory.

    Raises:
        MachineError: If they do not.
    """
    on_host = needs.host
    if isinstance(trainer.accelerator, CPUAccelerator):
        on_host += needs.device * trainer.num_devices
    else:
        memory = torch.cuda.get_device_properties(trainer.strategy.root_device).total_memory
        if needs.device > memory:
            raise MachineError(
                f"each GPU needs {_gb(needs.device)} without activations ({_parts(needs)}), and has {_gb(memory)}; use "
                "more devices under ZeRO-2, offload_optimizer, or fewer trainable parameters"
            )
    memory = psutil.virtual_memory().available
    if on_host > memory:
        raise MachineError(
            f"the host needs {_gb(on_host)} without activations ({_parts(needs)}), and {_gb(memory)} of its memory are "
            "free; use fewer trainable parameters, or another machine"
        )


def check_disk(
    needs: MemoryEstimate, run_dir: Path, num_steps: int, every_n_steps: int | None, save_top_k: int
) -> None:
    """Checks that the disk has room for the checkpoints that exist at the same time.

    Args:
        needs: Estimate of the run.
        run_dir: Folder of the run. Its content counts as free space: it is replaced, or is what a resumed run saves.
        num_steps: Number of optimizer steps of the run; -1 if it is unknown.
        every_n_steps: Number of steps between two periodic checkpoints.
        save_top_k: Number of periodic checkpoints that are kept; -1 for all.

    Raises:
        MachineError: If the room does not suffice.
    """
    saves = num_steps // every_n_steps + 1 if num_steps > 0 and every_n_steps else 1  # and that of the last step
    # one more is written before the oldest is removed, and that of the last step comes on top
    count = saves if save_top_k < 0 else min(saves, save_top_k + 2)
    existing = next(folder for folder in (run_dir.resolve(), *run_dir.resolve().parents) if folder.exists())
    used = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free + used
    if count * needs.checkpoint > free:
        raise MachineError(
            f"`run_dir` {run_dir} needs room for {count} checkpoints of {_gb(needs.checkpoint)}, and {_gb(free)} are "
            "free; make room, choose another disk, or lower `save_top_k`"
        )


def check_port() -> None:
    """Checks that `MASTER_PORT` is free, if it is set and this process is the one that listens on it.

    Processes that meet at a port that another program uses wait until they are killed.

    Raises:
        MachineError: If the port is in use.
    """
    port = os.environ.get("MASTER_PORT")
    started_by_another = {"LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys()  # Lightning, torchrun, Slurm
    if port is None or started_by_another or os.environ.get("NODE_RANK", "0") != "0":
        return
    with socket.socket() as listener:
        try:
            listener.bind(("", int(port)))
        except OSError as error:
            raise MachineError(f"MASTER_PORT {port} is in use; set it to a free port, or leave it unset") from error


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def _parts(needs: MemoryEstimate) -> str:
    return ", ".join(f"{name} {_gb(size)}" for name, size in asdict(needs).items() if size and name != "checkpoint")
