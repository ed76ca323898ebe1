"""ZeRO stage 2 as Lightning and DeepSpeed mean it, on GPUs and, for tests, on CPUs.

What is changed against `lightning.pytorch.strategies.DeepSpeedStrategy` (2.6.6, with DeepSpeed 0.19.8):

- Gradients are divided once by the number of accumulated batches, not twice.
- Half-precision gradients are summed in float32.
- Checkpoints are complete or absent, hold what trains, and are verified and compared with the run before any
  unpickling; DeepSpeed itself loads a checkpoint with a flipped bit, of two mixed steps, or of reordered parameters.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from glmja.errors import ModelError
from glmja.runs import manifest


class ZeRO2(DeepSpeedStrategy):
    """Data parallel; optimizer state and gradients are divided among the devices."""

    def __init__(
        self,
        offload_optimizer: bool = False,
        timeout_minutes: float = 10,
        reduce_bucket_size: int = 200_000_000,
        allgather_bucket_size: int = 200_000_000,
        initial_scale_power: int = 16,
        loss_scale_window: int = 1000,
    ) -> None:
        """Divides optimizer state and gradients among the devices.

        Args:
            offload_optimizer: Keep the optimizer's state in, and run it on, the host: less GPU memory, much slower.
            timeout_minutes: A process that waits this long for another ends the run. Longer than a save takes.
            reduce_bucket_size: Elements of gradients that are summed at once; each costs 2 or 4 bytes of a buffer.
            allgather_bucket_size: Elements of weights that are gathered at once after a step.
            initial_scale_power: With precision 16, the loss is first scaled by 2 to this power. Steps whose
                gradients overflow are skipped, and halve the scale.
            loss_scale_window: With precision 16, steps without overflow after which the scale doubles.
        """
        super().__init__(
            stage=2,
            offload_optimizer=offload_optimizer,
            reduce_bucket_size=reduce_bucket_size,
            allgather_bucket_size=allgather_bucket_size,
            initial_scale_power=initial_scale_power,
            loss_scale_window=loss_scale_window,
            logging_batch_size_per_gpu=1,  # only for DeepSpeed's timers; "auto" asks the loader for a batch sampler
            timeout=timedelta(minutes=timeout_minutes),
            exclude_frozen_parameters=True,
        )
        assert isinstance(self.config, dict)
        # torch's optimizers may be offloaded too; DeepSpeed's own one for the host is compiled at the first start
        self.config["zero_force_ds_cpu_optimizer"] = False

    def _format_config(self) -> None:
        super()._format_config()
        assert isinstance(self.config, dict)
        self.config["data_types"] = {"grad_accum_dtype": "fp32"}
        if "bf16" in self.config:
            self.config["bf16"]["check_grad_overflow"] = True  # one NaN would stay in the weights for ever

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning has divided the loss by `accumulate_grad_batches`; DeepSpeed would do it again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Saves a folder that is complete or absent. All processes write into one file system.

        Raises:
            FileExistsError: If there is a checkpoint of that name.
            OSError: If it cannot be written, as on a full disk.
        """
        final = Path(self.broadcast(os.path.abspath(filepath)))  # noqa: PTH100 - keeps symlinks
        self._on_rank_zero(lambda: manifest.begin(final))
        try:
            super().save_checkpoint(checkpoint, manifest.partial_folder(final), storage_options)
        except RuntimeError as error:
            raise manifest.not_written(final, error) from error
        self.barrier()
        facts = checkpoint.get(manifest.FACTS, {})
        self._on_rank_zero(
            lambda: manifest.complete(manifest.partial_folder(final), final, checkpoint["global_step"], facts)
        )

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Verifies the files and compares the facts with `facts()` of the module, if it has it; then loads.

        DeepSpeed unpickles whatever the files hold: resume only from checkpoints of your own.

        Raises:
            FileNotFoundError: If there is nothing of that name.
            ValueError: If the checkpoint is incomplete or damaged, or this run differs from the one that saved it.
        """
        self._on_rank_zero(lambda: self._check(checkpoint_path))
        return super().load_checkpoint(checkpoint_path, weights_only)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Removes the folder."""
        if self.is_global_zero:
            manifest.remove(filepath)

    def _check(self, path: str | Path) -> None:
        saved = manifest.read(path)
        if not any(name.startswith("checkpoint/") for name in saved.files):
            raise ModelError(f"{path} was not saved by ZeRO2; resume with the strategy that saved it")
        facts = getattr(self.lightning_module, "facts", None)
        if facts is not None:
            manifest.check_facts(saved.facts, facts(), path)

    def _on_rank_zero(self, act: Callable[[], Any]) -> None:
        """Acts in the first process while the others wait; what it raises, all raise."""
        error: Exception | None = None
        if self.is_global_zero:
            try:
                act()
            except (ValueError, OSError) as raised:
                error = raised
        error = self.broadcast(error)
        if error is not None:
            raise error

    # What follows lets CPUs in; on GPUs it is Lightning's.

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    def setup_environment(self) -> None:
        """Lightning refuses all but CUDA, from the time before DeepSpeed ran on CPUs (Lightning PR #12699)."""
        if self._on_cpu:
            super(DeepSpeedStrategy, self).setup_environment()
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Lightning compares device indices, which CPUs have not."""
        if not self._on_cpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        import deepspeed.ops  # noqa: PLC0415 - seconds, and it chooses its device when imported

        # An operation for inference that would be compiled at the start, and leave 66 MiB a process in /dev/shm.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._init_deepspeed_distributed()

    def init_deepspeed(self) -> None:
        """DeepSpeed wants an index of the device; without one it fails, with -1 it trains alone."""
        if not self._on_cpu:
            super().init_deepspeed()
            return
        import deepspeed  # noqa: PLC0415 - as above

        initialize = deepspeed.initialize

        def with_device_rank(*args: Any, **kwargs: Any) -> Any:
            return initialize(*args, **kwargs | {"args": argparse.Namespace(device_rank=self.local_rank)})

        with mock.patch.object(deepspeed, "initialize", with_device_rank):
            super().init_deepspeed()
