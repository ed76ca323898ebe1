"""`python -m glmja.fit --config …`: trains a model on data, both named in the configuration.

The only file of `glmja/` that knows of Lightning, and the only one above the three rooms: it adds what every run
needs so that it can be killed and go on, whatever its configuration lists.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.exact_resume import ExactResume
from callbacks.final_checkpoint import FinalCheckpoint
from callbacks.largest_batch_check import LargestBatchCheck
from callbacks.ledger_report import LedgerReport
from glmja.cli.command import USAGE_ERROR, CliParser, one_line_errors
from glmja.cli.config_safety import allow_imports
from glmja.errors import DivergedError, MachineError
from glmja.runs import manifest
from lit_modules.base import GLMModule
from lit_modules.checkpoint_folder import CheckpointFolders
from lit_modules.preflight import MemoryEstimate, check_disk, check_memory, estimate_memory

DIVERGED = 6

EXIT_CODES = {MisconfigurationException: USAGE_ERROR, DivergedError: DIVERGED}

TRAINER_DEFAULTS = {
    "max_epochs": 1,  # the data module plans the whole run as one
    "num_sanity_val_steps": -1,  # the table before training
    "use_distributed_sampler": False,  # the loaders know their rank; Lightning's would shuffle
}

CHECKPOINT_DEFAULTS = {
    "checkpoint.every_n_train_steps": 500,
    "checkpoint.save_top_k": 2,
    "checkpoint.monitor": "step",
    "checkpoint.mode": "max",
    "checkpoint.filename": "step={step}",
    "checkpoint.auto_insert_metric_name": False,
}


# how parameters that errors of the library name are spelled here
FLAGS = {
    "accumulate_grad_batches": "--trainer.accumulate_grad_batches",
    "batch_size": "--data.init_args.batch_size",
    "ckpt_path": "--ckpt_path",
    "dtype": "--model.init_args.dtype",
    "fused": "--model.init_args.optimizer.init_args.fused",
    "gradient_checkpointing": "--model.init_args.gradient_checkpointing",
    "max_steps": "--trainer.max_steps",
    "num_workers": "--data.init_args.num_workers",
    "precision": "--trainer.precision",
    "row_len": "--data.init_args.row_len",
    "run_dir": "--run_dir",
    "save_top_k": "--checkpoint.save_top_k",
    "strategy": "--trainer.strategy",
    "text_key": "text_key of the source in data.init_args.sources",
    "tokens_per_batch": "--data.init_args.tokens_per_batch",
}


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved configuration as `RUN_DIR/config.yaml`, ready for `--config`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing: a run that fails before its first step leaves its folder free."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, in the first process only."""
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config.ckpt_path = None  # the file is for a run like this one, which may have been resumed
            self.parser.save(config, folder / self.config_filename, skip_unset=False, overwrite=True, multifile=False)


class FitParser(CliParser, LightningArgumentParser):
    """LightningCLI's parser with our errors."""


class FitCLI(LightningCLI):
    """LightningCLI with a run folder: `RUN_DIR/{config.yaml, checkpoints, tensorboard, ledger.json}`."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As Lightning does it."""
        kwargs["prog"] = "python -m glmja.fit"
        parser = FitParser(**kwargs)
        parser.add_argument(
            "-c", "--config", action="config", help="YAML file with any of these arguments; several stack."
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder and what is to be resumed."""
        parser.add_argument("--run_dir", type=str, default="runs/run", help="New folder of the run.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to resume from; `last` for the run's last."
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(CHECKPOINT_DEFAULTS)
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "checkpoint.dirpath", compute_fn=lambda run_dir: f"{run_dir}/checkpoints")
        parser.link_arguments("model.init_args.model_dir", "data.init_args.tokenizer_dir")

    def before_instantiate_classes(self) -> None:
        """Refuses the folder of another run, and a checkpoint that is not there or not whole.

        Raises:
            FileNotFoundError: If there is no such checkpoint; Lightning would only warn, and start from scratch.
            ValueError: If `run_dir` holds a run and none is resumed, or the checkpoint is damaged.
        """
        run_dir, ckpt_path = Path(self.config.run_dir), self.config.ckpt_path
        if ckpt_path is None:
            if manifest.any_in(run_dir / "checkpoints"):
                raise ValueError(f"--run_dir {run_dir} holds a run; choose another, or resume it with --ckpt_path last")
            return
        try:
            last = ckpt_path == "last"
            path = manifest.newest(run_dir / "checkpoints") if last else Path(ckpt_path)
            self.saved = manifest.read(path, verify=not last)  # the newest was verified when it was chosen
        except (ValueError, OSError) as error:
            raise type(error)(f"--ckpt_path {ckpt_path}: {error}") from error
        self.config.ckpt_path = str(path)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what every run needs; logs to `RUN_DIR/tensorboard` unless the configuration names a logger."""
        if self.config.trainer.logger is None:
            kwargs["logger"] = TensorBoardLogger(self.config.run_dir, name="tensorboard", version="")
        plugins = self.config_init.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), CheckpointFolders()]
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Refuses what does not fit together, before any weight is loaded or process started.

        Raises:
            ExceptionGroup: If several things are wrong.
            OSError: If the port at which the processes are to meet is in use, or memory or disk are too small.
            ValueError: If rows are longer than the model's positions, the checkpoint is of another base, tokenizer,
                strategy, precision or number of devices, or the data cannot be used.
        """
        checks = [self._check_rows, self._check_checkpoint]
        if self.trainer.world_size > 1:
            checks.append(check_port)
        if int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0:
            # bad data ends the run while there is only one process
            checks += [self._check_disk, self._check_memory, self.datamodule.prepare_data]
        problems: list[Exception] = []
        for check in checks:
            try:
                check()
            except (ValueError, OSError) as error:
                problems.append(error)
        if len(problems) > 1:
            raise ExceptionGroup("the run cannot begin", problems)
        for problem in problems:
            raise problem

    def _check_rows(self) -> None:
        row_len, positions = getattr(self.datamodule, "row_len", None), getattr(self.model, "max_positions", None)
        if row_len is not None and positions is not None and row_len > positions:
            raise ValueError(f"data.init_args.row_len ({row_len}) exceeds the model's {positions} positions")

    def _check_checkpoint(self) -> None:
        if self.config.ckpt_path is not None and hasattr(self.model, "check_resumable"):
            self.model.trainer = self.trainer
            self.model.check_resumable(self.saved.facts, self.config.ckpt_path)

    def _check_disk(self) -> None:
        if self._needs is not None:
            checkpoint = self.config.checkpoint
            check_disk(
                self._needs,
                Path(self.config.run_dir),
                self.trainer.max_steps,
                checkpoint.every_n_train_steps,
                checkpoint.save_top_k,
            )

    def _check_memory(self) -> None:
        if self._needs is not None:
            check_memory(self._needs, self.trainer)

    @cached_property
    def _needs(self) -> MemoryEstimate | None:
        return estimate_memory(self.model, self.trainer) if isinstance(self.model, GLMModule) else None


def check_port() -> None:
    """Checks that `MASTER_PORT`, if it is set and this process is the one to listen at it, is free.

    Processes that meet at a port of somebody else's wait there until they are killed.

    Raises:
        MachineError: If it is in use.
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


_CHATTY = ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the user can do nothing about: an advertisement, a false alarm, deprecations among libraries."""
    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in _CHATTY]

    def is_news(record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in ("litlogger", "`weights_only` was not set"))

    for logger in loggers:
        logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            for message in (
                "LightningCLI's args parameter",  # the demo and the tests pass them
                "`is_gradient_checkpointing` is deprecated",  # peft asks transformers
                r"`isinstance\(treespec, LeafSpec\)`",  # Lightning asks torch
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


def main(args: ArgsType = None) -> Trainer:
    """Fits a LightningModule on a LightningDataModule.

    Returns:
        The trainer, after the run.
    """
    with one_line_errors("python -m glmja.fit", EXIT_CODES, flags=FLAGS), _quiet():
        allow_imports()
        cli = FitCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveRunConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"description": "Trains a model on data, both named in the configuration."},
            run=False,
            args=args,
        )
        # here and not in trainer_defaults, which would share them among runs of one process
        cli.trainer.callbacks += [  # type: ignore[attr-defined]
            ExactResume(),
            LedgerReport(),
            LargestBatchCheck(),
            FinalCheckpoint(f"{cli.config.run_dir}/checkpoints"),
        ]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    return cli.trainer


if __name__ == "__main__":
    main()
