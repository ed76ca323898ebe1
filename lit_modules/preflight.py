"""What a run needs of its machine, reckoned from shapes before any weight is loaded."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from glmja.errors import MachineError
from lit_modules.base import GLMModule
from lit_modules.zero2 import ZeRO2

_FP32 = 4  # bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes.

    Attributes:
        weights: On each device.
        gradients: On each device, when a step is about to be taken.
        optimizer: The optimizer's state on each device, and under ZeRO the fp32 weights that it works on.
        host: What of these ZeRO offloads, of all devices of a machine.
        checkpoint: On the disk.
    """

    weights: int
    gradients: int
    optimizer: int
    host: int
    checkpoint: int

    @property
    def device(self) -> int:
        """On each device, activations aside."""
        return self.weights + self.gradients + self.optimizer


def estimate_memory(module: GLMModule, trainer: Trainer) -> MemoryEstimate:
    """What a run will need, activations and buffers left out: the least that it can do with.

    Under ZeRO-2, gradients and optimizer state are divided among the devices (Rajbhandari et al. 2019,
    https://arxiv.org/abs/1910.02054, section 5.2).
    """
    with isolate_rng():  # the adapters' first weights are drawn, even without a place to put them
        model = module.outline()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    state = _state_bytes_per_parameter(module) * trained
    strategy = trainer.strategy
    if not isinstance(strategy, ZeRO2):
        return MemoryEstimate(stored, _FP32 * trained, state, 0, _FP32 * trained + state)
    working = _FP32 * trained
    if not str(trainer.precision).startswith("32"):  # the engine casts all weights
        stored, working = 2 * sum(p.numel() for p in model.parameters()), 2 * trained
    divided = _FP32 * trained // trainer.world_size
    state += _FP32 * trained
    checkpoint, share = working + state, state // trainer.world_size
    assert isinstance(strategy.config, dict)
    if "offload_optimizer" in strategy.config["zero_optimization"]:
        return MemoryEstimate(stored, 0, 0, (divided + share) * trainer.num_devices, checkpoint)
    return MemoryEstimate(stored, divided, share, 0, checkpoint)


def _state_bytes_per_parameter(module: GLMModule) -> int:
    optimizer = module.try_optimizer()
    (parameter,) = optimizer.param_groups[0]["params"]
    tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1) // parameter.numel()


def check_memory(needs: MemoryEstimate, trainer: Trainer) -> None:
    """Checks that weights, gradients and optimizer fit into the memory there is, activations aside.

    Raises:
        MachineError: If they cannot.
    """
    on_host = needs.host
    if isinstance(trainer.accelerator, CPUAccelerator):
        on_host += needs.device * trainer.num_devices
    else:
        memory = torch.cuda.get_device_properties(trainer.strategy.root_device).total_memory
        if needs.device > memory:
            raise MachineError(
                f"each GPU would need {_gb(needs.device)} before any activation ({_parts(needs)}), and has "
                f"{_gb(memory)}; take more devices under ZeRO-2, offload_optimizer, or train less"
            )
    memory = psutil.virtual_memory().available
    if on_host > memory:
        raise MachineError(
            f"the host would need {_gb(on_host)} before any activation ({_parts(needs)}), and {_gb(memory)} of its "
            "memory are free; train less, or on another machine"
        )


def check_disk(
    needs: MemoryEstimate, run_dir: Path, num_steps: int, every_n_steps: int | None, save_top_k: int
) -> None:
    """Checks that the disk has room for the checkpoints that are there at one time.

    Args:
        needs: Of the run.
        run_dir: Its folder; what lies in it counts as room, for it is replaced or is what a resumed run would save.
        num_steps: Optimizer steps of the run; -1 if they are not known.
        every_n_steps: Steps from one periodic checkpoint to the next.
        save_top_k: How many of these are kept; -1 for all.

    Raises:
        MachineError: If it has not.
    """
    saves = num_steps // every_n_steps + 1 if num_steps > 0 and every_n_steps else 1  # and that of the last step
    # one more is written before the oldest goes, and the last step's is beyond those that are kept
    count = saves if save_top_k < 0 else min(saves, save_top_k + 2)
    there = next(folder for folder in (run_dir.resolve(), *run_dir.resolve().parents) if folder.exists())
    mine = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    free = shutil.disk_usage(there).free + mine
    if count * needs.checkpoint > free:
        raise MachineError(
            f"`run_dir` {run_dir}: {count} checkpoints of {_gb(needs.checkpoint)} would be there at one time, and "
            f"{_gb(free)} are free; make room, choose another disk, or lower `save_top_k`"
        )


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def _parts(needs: MemoryEstimate) -> str:
    return ", ".join(f"{name} {_gb(size)}" for name, size in asdict(needs).items() if size and name != "checkpoint")
