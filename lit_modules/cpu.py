"""Settings and warnings for runs on a CPU."""

from __future__ import annotations

import ctypes
import sys

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_warn

# parameters of glibc's mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def prepare_cpu(trainer: Trainer) -> None:
    """Keeps freed memory in the process and warns of a slow precision, if a run trains on a CPU.

    Args:
        trainer: Trainer of the run.
    """
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()
        if str(trainer.precision).startswith("bf16") and not has_bf16_instructions():
            rank_zero_warn(
                f"precision {trainer.precision} is emulated on this CPU, which has no instructions for bfloat16 "
                "(AVX-512 or AMX); set it to 32-true"
            )


def keep_freed_memory() -> bool:
    """Makes glibc keep freed blocks, instead of returning them to the kernel.

    Each training step frees and allocates the same activations. Blocks that were returned are mapped again page by page
    as they are written; `python -m benchmarks.training.page_faults` counts these page faults.

    Returns:
        Whether the C library is glibc and took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def has_bf16_instructions() -> bool:
    """Returns whether PyTorch multiplies bfloat16 matrices on this CPU without emulation."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # the check of PyTorch's own compiler
