"""The command line of a training run: LightningCLI with a run folder and checks before the start."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from glmja.cli.fit_arguments import DESCRIPTION
from glmja.runs import manifest
from glmja.runs.contracts import TrainingData
from glmja.runs.manifest import Manifest
from glmja.runs.run_folder import RunFolder
from glmja.runs.run_lock import locked
from lit_modules.base import GLMModule
from lit_modules.checkpoint_folder import CheckpointFolders
from lit_modules.cpu import prepare_cpu
from lit_modules.first_rank import is_first_of_run, is_first_on_machine
from lit_modules.fit_parser import TRAINER_DEFAULTS, FitParser, SaveRunConfig
from lit_modules.origin import describe_parent
from lit_modules.preflight import MemoryEstimate, check_disk, check_memory, check_port, estimate_memory
from lit_modules.start_checks import INPUT_ERRORS, Problems, check_gpus, check_new_run, clean_up_on_failure, use_cpu
from lit_modules.trainer_checks import check_settings, check_trainer, strategy_as_class


class FitCLI(LightningCLI):
    """LightningCLI whose runs have a folder of their own; see `glmja.runs.run_folder.RunFolder`."""

    def __init__(
        self,
        callbacks_of: Callable[[str, bool], Sequence[Callback]],
        prog: str,
        resources: ExitStack,
        args: ArgsType = None,
    ) -> None:
        """Parses the command line, creates trainer, module and data module, and checks them.

        Args:
            callbacks_of: Returns the callbacks that every run gets in addition to the configured ones, given the
                folder of the run and whether the run saves checkpoints.
            prog: Name of the command in help and error messages.
            resources: Is given what must be released after the run: the lock of the run folder.
            args: Arguments of the command line; those of the process by default.

        Raises:
            ExceptionGroup: If there are several problems.
            FileNotFoundError: If the checkpoint to resume from does not exist.
            OSError: If memory or disk are too small, or the port at which the processes meet is in use.
            ValueError: If an argument is invalid, the run folder is in use, or the checkpoint is damaged or was saved
                by another run.
        """
        self.callbacks_of, self.resources = callbacks_of, resources
        self.resumed: Manifest | None = None
        self.verified: Path | None = None
        self.parent: tuple[Path, Manifest] | None = None
        self.is_short_run, self.has_gpus = False, True
        self.problems = Problems()
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveRunConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"prog": prog, "description": DESCRIPTION},
            run=False,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Returns the parser, with the option `--config`."""
        parser = FitParser(**kwargs)
        parser.add_config()
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder, and the checkpoints to resume from or to start with."""
        assert isinstance(parser, FitParser)
        parser.add_run()

    def _add_instantiators(self) -> None:
        """Leaves out Lightning's instantiators, which write the whole configuration as YAML and read it again.

        Classes that call `save_hyperparameters` get the configuration from them; without, they get their arguments.
        """

    def before_instantiate_classes(self) -> None:
        """Checks GPUs and run folder, and finds and verifies the checkpoint to resume from.

        The first process of a machine hashes the checkpoint; Lightning would only warn of a missing one.

        Raises:
            ValueError: If a setting of the trainer cannot work, or arguments contradict each other.
        """
        trainer, ckpt_path = self.config.trainer, self.config.ckpt_path
        trainer.strategy = strategy_as_class(trainer.strategy)
        check_settings(self.config)
        if self.config.resume_with_new_optimizer and ckpt_path is None:
            raise ValueError("--resume_with_new_optimizer needs the checkpoint to resume from; add --ckpt_path last")
        if self.config.preview or self.config.estimate:
            return
        if trainer.fast_dev_run:
            self._plan_short_run()
        run = RunFolder(self.config.run_dir)
        with self.problems.collected():
            check_gpus(trainer)
        if self.problems.found:
            self.has_gpus = False
            use_cpu(trainer)
        with self.problems.collected():
            if is_first_of_run():
                self.resources.enter_context(locked(run.path))
        with self.problems.collected():
            self._find_parent()
        with self.problems.collected():
            if ckpt_path is None:
                check_new_run(run, self.config)
            else:
                self._find_checkpoint(run)

    def _find_parent(self) -> None:
        """Finds the checkpoint whose weights the run starts with; a resumed run does without it if it is gone."""
        config = self.config
        if config.init_from is None:
            return
        try:
            self.parent = manifest.find(config.init_from, is_first_on_machine() and config.ckpt_path is None)
        except (ValueError, OSError) as error:
            if config.ckpt_path is None:
                raise type(error)(f"--init_from {config.init_from}: {error}") from error

    def _find_checkpoint(self, run: RunFolder) -> None:
        ckpt_path, verify = self.config.ckpt_path, is_first_on_machine()
        last = ckpt_path == "last"
        if last and not manifest.any_in(run.checkpoints):
            raise FileNotFoundError(
                f"--ckpt_path last: no complete checkpoint in {run.checkpoints}; leave out --ckpt_path to start the run"
            )
        try:
            if last:
                path, self.resumed = manifest.find(run.path, verify)
            else:
                path = Path(ckpt_path)
                self.resumed = manifest.read(path, verify)
        except (ValueError, OSError) as error:
            raise type(error)(f"--ckpt_path {ckpt_path}: {error}") from error
        self.verified = path if verify else None
        self.config.ckpt_path = str(path)

    def instantiate_classes(self) -> None:
        """Creates trainer, module and data module; if one fails, looks for what else is wrong before it raises."""
        if self.config.estimate:
            return
        try:
            super().instantiate_classes()
        except INPUT_ERRORS as error:
            self.problems.add(error)
            with self.problems.collected():  # what else is wrong
                data = self.parser.instantiate_classes(Namespace(data=self.config.data)).data
                if isinstance(data, TrainingData) and is_first_on_machine():
                    data.check_files()
            self.problems.raise_any()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Returns the trainer with the callbacks of every run; it logs to TensorBoard unless another logger is set."""
        trainer = self.config_init.trainer
        if trainer.logger is None or self.is_short_run:
            run = RunFolder(self.config.run_dir)
            kwargs["logger"] = TensorBoardLogger(run.path, name=run.tensorboard.name, version="")
        if trainer.enable_progress_bar is None and not sys.stdout.isatty():
            # the bar would print once, at the end; callbacks.ProgressLines prints lines
            kwargs["enable_progress_bar"] = False
        kwargs["plugins"] = [*_as_list(trainer.plugins), CheckpointFolders(self.verified)]
        chats, own = self.config.chats, self.callbacks_of(self.config.run_dir, not self.is_short_run)
        configured = [c for c in _as_list(trainer.callbacks) if chats or not getattr(c, "samples_chats", False)]
        kwargs["callbacks"] = [*configured, *own]
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Checks that everything fits together, before any weights are loaded, data tokenized or processes started.

        Raises:
            ExceptionGroup: If there are several problems.
            OSError: If the port at which the processes meet is in use, or memory or disk are too small.
            ValueError: If rows are longer than the model's positions, the data cannot be used, or the checkpoint was
                saved with another base model, tokenizer, strategy, precision or number of devices.
        """
        if self.config.preview or self.config.estimate:
            return
        if isinstance(self.datamodule, TrainingData) and isinstance(self.model, GLMModule):
            self.datamodule.use_tokenizer(self.model.tokenizer)  # both are linked to one folder
            if self.resumed is not None:
                self.datamodule.saved = self.resumed.identity
        checks: list[Callable[[], None]] = [self._check_trainer, self._check_rows, self._check_checkpoint]
        if self.trainer.world_size > 1:
            checks.append(check_port)
        if is_first_on_machine():  # so that bad data ends the run while there is only one process
            checks += [self._check_disk, self._check_memory]
            if isinstance(self.datamodule, TrainingData):
                checks.append(self.datamodule.check_files)
        for check in checks:
            with self.problems.collected():
                check()
        self.problems.raise_any()
        if is_first_on_machine():
            self.datamodule.prepare_data()

    def fit(self) -> Trainer:
        """Trains the module.

        Returns:
            The trainer, after the run.
        """
        if self.config.ckpt_path is not None:
            # not an argument of `fit`: hooks before loading would not see it
            self.trainer.ckpt_path = self.config.ckpt_path
        prepare_cpu(self.trainer)
        with clean_up_on_failure(Path(self.config.run_dir), self._has_started):
            self.trainer.fit(self.model, datamodule=self.datamodule, weights_only=True)
        return self.trainer

    def _has_started(self) -> bool:
        callbacks: Sequence[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return any(isinstance(callback, SaveRunConfig) and callback.has_started for callback in callbacks)

    def _plan_short_run(self) -> None:
        """Turns `fast_dev_run` into a run of as many steps, in a folder that is removed.

        Lightning's own would change the number of micro-batches after they are planned.

        Raises:
            ValueError: If a run is resumed.
        """
        config, trainer = self.config, self.config.trainer
        if config.ckpt_path is not None:
            raise ValueError("trainer.fast_dev_run resumes no run; leave out --ckpt_path")
        folder = RunFolder(self.resources.enter_context(tempfile.TemporaryDirectory(prefix="glmja-")))
        config.run_dir = trainer.default_root_dir = str(folder.path)
        config.checkpoint.dirpath, config.checkpoint.save_top_k = str(folder.checkpoints), 0
        trainer.max_steps = trainer.limit_val_batches = int(trainer.fast_dev_run)
        trainer.num_sanity_val_steps, trainer.val_check_interval, trainer.check_val_every_n_epoch = -1, 1.0, 1
        trainer.fast_dev_run, self.is_short_run = False, True

    def _check_trainer(self) -> None:
        if isinstance(self.model, GLMModule):
            check_trainer(self.trainer)
            self.model.try_optimizer()

    def _check_rows(self) -> None:
        if isinstance(self.datamodule, TrainingData) and isinstance(self.model, GLMModule):
            row_len, positions = self.datamodule.row_len, self.model.folder.max_positions
            if row_len > positions:
                raise ValueError(f"`row_len` ({row_len}) exceeds the model's {positions} positions")

    def _check_checkpoint(self) -> None:
        if not isinstance(self.model, GLMModule):
            return
        origin, seed = self.model.origin, self.config.seed_everything
        origin.seed = seed if type(seed) is int else None  # false: the numbers differ from run to run
        if self.resumed is None:
            if self.parent is not None:
                origin.start_with(*self.parent, self.model.identity(self.trainer))
            return
        origin.parent = describe_parent(self.parent[1]) if self.parent else self.resumed.identity.parent
        self.model.resume_state.resume(self.resumed, self.config.resume_with_new_optimizer)
        self.model.resumable_identity(self.trainer).check_resumable(self.resumed.identity, self.config.ckpt_path)
        if self.resumed.identity.optimizer is None and not self.config.resume_with_new_optimizer:
            rank_zero_warn(
                f"{self.config.ckpt_path} does not record its optimizer and schedule: those of its state are used, "
                "whatever the configuration says"
            )

    def _check_disk(self) -> None:
        if self._estimate is not None:
            saves, run, steps = self.config.checkpoint, Path(self.config.run_dir), self.trainer.max_steps
            check_disk(self._estimate, run, steps, saves.every_n_train_steps, saves.save_top_k)

    def _check_memory(self) -> None:
        if self._estimate is not None and self.has_gpus:
            check_memory(self._estimate, self.trainer)

    @cached_property
    def _estimate(self) -> MemoryEstimate | None:
        return estimate_memory(self.model, self.trainer) if isinstance(self.model, GLMModule) else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
