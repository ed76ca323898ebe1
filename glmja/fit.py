"""`python -m glmja.fit --config …`: trains a model on data, both named in the configuration.

The only file of `glmja/` that knows of Lightning.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from glmja.command import one_line_errors


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved configuration as `RUN_DIR/config.yaml`, ready for `--config`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing: a run that fails before its first step leaves its folder free."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, in the first process only."""
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(
                self.config, folder / self.config_filename, skip_unset=False, overwrite=True, multifile=False
            )


class FitCLI(LightningCLI):
    """LightningCLI with a run folder: `RUN_DIR/{config.yaml, checkpoints, tensorboard}`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder and what is to be resumed."""
        parser.add_argument("--run_dir", type=str, default="runs/run", help="New folder of the run.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to resume from; `last` for the run's last."
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.filename": "step={step}",
                             "checkpoint.auto_insert_metric_name": False})  # fmt: skip
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "checkpoint.dirpath", compute_fn=lambda run_dir: f"{run_dir}/checkpoints")
        parser.link_arguments("model.init_args.model_dir", "data.init_args.tokenizer_dir")

    def before_instantiate_classes(self) -> None:
        """Refuses the folder of another run, and a checkpoint that is not there.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If `run_dir` holds a run and none is resumed, or the checkpoint is damaged or holds code.
        """
        if self.config.ckpt_path is not None:
            check_checkpoint(self.config.ckpt_path, Path(self.config.run_dir))
        if (Path(self.config.run_dir) / "config.yaml").exists() and self.config.ckpt_path is None:
            raise ValueError(
                f"--run_dir {self.config.run_dir} holds a run; choose another, or resume it with --ckpt_path last"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Logs to `RUN_DIR/tensorboard` unless the configuration names a logger."""
        if self.config.trainer.logger is None:
            kwargs["logger"] = TensorBoardLogger(self.config.run_dir, name="tensorboard", version="")
        return super().instantiate_trainer(**kwargs)


def check_checkpoint(ckpt_path: str, run_dir: Path) -> None:
    """Checks that a checkpoint exists and can be read without running code.

    Args:
        ckpt_path: A file, or `last`.
        run_dir: The run whose last checkpoint is meant.

    Raises:
        FileNotFoundError: If there is none; Lightning would only warn, and start from scratch.
        ValueError: If the file is damaged or holds code.
    """
    path = run_dir / "checkpoints" / "last.ckpt" if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"--ckpt_path {ckpt_path}: no such checkpoint: {path}")
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"--ckpt_path {ckpt_path}: {path} is damaged or holds code; it was not loaded") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the user can do nothing about: an advertisement, and deprecations among libraries."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def is_news(record: logging.LogRecord) -> bool:
        return "litlogger" not in record.getMessage()

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
        logger.removeFilter(is_news)


def main(args: ArgsType = None) -> Trainer:
    """Fits a LightningModule on a LightningDataModule.

    Returns:
        The trainer, after the run.
    """
    with one_line_errors("python -m glmja.fit"), _quiet():
        cli = FitCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveRunConfig,
            trainer_defaults={"num_sanity_val_steps": -1},
            parser_kwargs={"description": "Trains a model on data, both named in the configuration."},
            run=False,
            args=args,
        )
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    return cli.trainer


if __name__ == "__main__":
    main()
