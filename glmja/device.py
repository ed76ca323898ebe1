"""Where a model works."""

from __future__ import annotations

import torch


def check_device(name: str) -> str:
    """The device of a name, `auto` for the first GPU or else the CPU.

    Raises:
        ValueError: If the machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"--device {name}: not on this machine ({reason}); give cpu, cuda, or auto") from error
    return name
