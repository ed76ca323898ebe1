"""Work that one process does for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import distributed

Result = TypeVar("Result")


def is_first_on_machine() -> bool:
    """Returns whether this is the first process on its machine, even before a process group exists.

    Lightning and torchrun set `LOCAL_RANK` for the processes that they start, Slurm sets `SLURM_LOCALID`.
    """
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0


def is_first_of_run() -> bool:
    """Returns whether this is the first process of a run on all machines, even before a process group exists.

    torchrun sets `RANK`, Slurm `SLURM_PROCID`; Lightning expects `NODE_RANK` or `GROUP_RANK` on each machine.
    """
    named = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return is_first_on_machine() and all(int(os.environ.get(name, "0")) == 0 for name in named)


def on_first_rank(act: Callable[[], Result]) -> Result:
    """Calls a function in the first process of a run while the others wait. All processes must call this together.

    Args:
        act: The function. Its result is sent to the other processes, so it must be possible to pickle it.

    Returns:
        What the function returned in the first process, on every process.

    Raises:
        ValueError: If the function raised it in the first process; then every process raises it.
        OSError: As above.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return act()
    outcome: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            outcome[0] = act()
        except (ValueError, OSError) as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(Result, outcome[0])
