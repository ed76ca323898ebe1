"""Learning-rate schedules."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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
            raise ValueError("the learning rate (optimizer.init_args.lr) must be positive: with 0, no weight changes")
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
