"""DeepSpeed ZeRO stage 2 for GPUs and, for tests, for CPUs.

Differences from `lightning.pytorch.strategies.DeepSpeedStrategy` (2.6.6, with DeepSpeed 0.19.8):

- Gradients are divided by the number of accumulated batches once, not twice.
- Half-precision gradients are accumulated in float32.
- Checkpoints are complete or absent, hold the trainable parameters, and are verified before any unpickling; DeepSpeed
  itself loads a checkpoint with a flipped bit or with files of two different steps.
"""

from __future__ import annotations

import argparse
import os
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
from glmja.runs.manifest import LightningState
from glmja.runs.run_folder import RunFolder
from lit_modules.checkpoint_folder import CheckpointFolders, saved_identity
from lit_modules.first_rank import on_first_rank


class ZeRO2(DeepSpeedStrategy):
    """Data-parallel training; optimizer state and gradients are partitioned across the devices."""

    def __init__(
        self,
        offload_optimizer: bool = False,
        timeout_minutes: float = 10,
        reduce_bucket_size: int = 200_000_000,
        allgather_bucket_size: int = 200_000_000,
        initial_scale_power: int = 16,
        loss_scale_window: int = 1000,
    ) -> None:
        """Partitions optimizer state and gradients across the devices.

        Args:
            offload_optimizer: Whether to keep the optimizer state in host memory and to run the optimizer on the host.
                Takes less GPU memory and is much slower.
            timeout_minutes: Minutes that a process waits for another one before the run fails. Must be longer than
                saving a checkpoint takes.
            reduce_bucket_size: Number of gradient elements that are reduced at once. Each takes 2 or 4 bytes of a
                buffer.
            allgather_bucket_size: Number of weight elements that are gathered at once after a step.
            initial_scale_power: Power of 2 by which the loss is scaled at the start, with precision 16 only. A step
                whose gradients overflow is skipped, and the scale is halved.
            loss_scale_window: Number of steps without overflow after which the scale doubles, with precision 16 only.
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
        # torch's optimizers can be offloaded as well; DeepSpeed's own CPU optimizer is compiled at the first start
        self.config["zero_force_ds_cpu_optimizer"] = False
        self.offloads_optimizer = offload_optimizer

    def _format_config(self) -> None:
        super()._format_config()
        assert isinstance(self.config, dict)
        self.config["data_types"] = {"grad_accum_dtype": "fp32"}
        if "bf16" in self.config:
            self.config["bf16"]["check_grad_overflow"] = True  # otherwise one NaN stays in the weights permanently

    @property
    def num_skipped_steps(self) -> int:
        """Optimizer steps that DeepSpeed skipped because a gradient was not finite."""
        return int(self._engine.skipped_steps)

    @property
    def grad_norm(self) -> float | Tensor | None:
        """Norm of the gradients of the last optimizer step over all ranks, before clipping."""
        return self._engine.get_global_grad_norm()

    @property
    def _engine(self) -> Any:
        """The `deepspeed.DeepSpeedEngine`, which does the work of Lightning's optimizer loop."""
        return self.model

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Runs the backward pass without DeepSpeed's division: Lightning has divided by `accumulate_grad_batches`."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def save_checkpoint(self, checkpoint: LightningState, filepath: str | Path, storage_options: Any = None) -> None:
        """Saves a folder that is complete or absent. All processes write to one file system.

        Raises:
            FileExistsError: If there is a checkpoint of that name.
            MachineError: If it cannot be written, as on a full disk.
        """
        final = Path(self.broadcast(os.path.abspath(filepath)))  # noqa: PTH100 - keeps symlinks
        on_first_rank(lambda: manifest.begin(final))
        partial = manifest.partial_folder(final)
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
        except RuntimeError as error:
            raise manifest.save_error(final, error) from error
        self.barrier()
        on_first_rank(lambda: manifest.complete(partial, final, checkpoint["global_step"], saved_identity(checkpoint)))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> LightningState:
        """Verifies a checkpoint, then loads it.

        DeepSpeed unpickles whatever the files hold: resume only from your own checkpoints.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ModelError: If it is incomplete or damaged, or was not saved by this strategy.
        """
        # the trainer's plugin knows whether the command has verified the checkpoint
        folders = self.checkpoint_io if isinstance(self.checkpoint_io, CheckpointFolders) else CheckpointFolders()
        path, saved = folders.open(checkpoint_path)
        if not any(name.startswith(f"{RunFolder.ZERO_STATES}/") for name in saved.files):
            raise ModelError(f"{path} was not saved by ZeRO2; resume with the strategy that saved it")
        return super().load_checkpoint(path, weights_only)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Removes a checkpoint folder."""
        if self.is_global_zero:
            manifest.remove(filepath)

    # The rest makes CPUs work. On GPUs, it does what Lightning does.

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    def setup_environment(self) -> None:
        """Skips Lightning's check for CUDA, which is older than DeepSpeed's CPU accelerator (Lightning PR #12699)."""
        if self._on_cpu:
            super(DeepSpeedStrategy, self).setup_environment()
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Skips Lightning's comparison of device indices, which CPUs do not have."""
        if not self._on_cpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        import deepspeed.ops  # noqa: PLC0415 - takes seconds, and chooses its accelerator on import

        # an inference operation that would be compiled at the start, and leave 66 MiB per process in /dev/shm
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._init_deepspeed_distributed()

    def init_deepspeed(self) -> None:
        """Passes the device index that DeepSpeed needs: without one it fails, with -1 it trains alone."""
        if not self._on_cpu:
            super().init_deepspeed()
            return
        import deepspeed  # noqa: PLC0415 - as above

        initialize = deepspeed.initialize

        def with_device_rank(*args: Any, **kwargs: Any) -> Any:
            return initialize(*args, **kwargs | {"args": argparse.Namespace(device_rank=self.local_rank)})

        with mock.patch.object(deepspeed, "initialize", with_device_rank):
            super().init_deepspeed()
