"""The parser of a training run's command line, its defaults, and the configuration that a run saves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from yaml import YAMLError  # type: ignore[import-untyped]

from glmja.cli.fit_arguments import (
    CHATS_HELP,
    CKPT_PATH_HELP,
    CONFIG_HELP,
    ESTIMATE_HELP,
    HELP_ALL_HELP,
    INIT_FROM_HELP,
    NEW_OPTIMIZER_HELP,
    PREVIEW_HELP,
    RUN_DIR,
    RUN_DIR_HELP,
    USUAL_NAMES,
)
from glmja.cli.named_lists import MODE, SOURCES, merge_named
from glmja.cli.parser import CliParser, is_flag
from glmja.runs.run_folder import RunFolder

TRAINER_DEFAULTS = {
    "max_epochs": 1,  # the data module plans the whole run as one epoch of the trainer
    "enable_model_summary": False,  # callbacks.ModelLine says in a line what matters
    "num_sanity_val_steps": -1,  # the metrics before training
    "use_distributed_sampler": False,  # the loaders know their rank; Lightning's sampler would shuffle
}

# parameters of this project's classes that may stand alone; the parser knows them only once a class is chosen
BOOLEANS_OF_CLASSES = {
    "model": ("gradient_checkpointing", "compile_layers", "lora.dora", "lora.rslora"),
    "data": ("isolate_documents", "packing"),
    "trainer.strategy": ("offload_optimizer",),
}

_PREFIXES_OF_CLASSES = ("--model.", "--data.", "--trainer.strategy.", "--trainer.callbacks.")

CHECKPOINT_DEFAULTS = {
    "checkpoint.every_n_train_steps": 500,
    "checkpoint.save_top_k": 2,
    "checkpoint.monitor": "step",
    "checkpoint.mode": "max",
    "checkpoint.filename": "step={step}",
    "checkpoint.auto_insert_metric_name": False,
}


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved configuration as `RUN_DIR/config.yaml`, which `--config` accepts.

    Attributes:
        has_started: Whether the first step is about to begin.
    """

    has_started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing, so that a run that fails before its first step leaves no folder behind."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file in the first process."""
        self.has_started = True
        if trainer.is_global_zero:
            run = RunFolder(trainer.default_root_dir)
            run.path.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config.ckpt_path, config.resume_with_new_optimizer, config.preview = None, False, False  # of a new run
            self.parser.save(
                config, run.config, skip_unset=False, skip_validation=True, overwrite=True, multifile=False
            )


class FitParser(CliParser, LightningArgumentParser):
    """LightningCLI's parser with errors of one line."""

    help_flag = "--help_all"  # --help is the short one of glmja.cli.fit_arguments
    usual_names = USUAL_NAMES
    named_lists = SOURCES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Creates a parser that knows lists by the names of their entries; see `glmja.cli.named_lists`."""
        _take_counts_as_counts()
        super().__init__(*args, **{"parser_mode": MODE} | kwargs)

    def _boolean_flags(self) -> set[str]:
        of_classes = {
            f"{holder}{inner}.{name}"
            for holder, names in BOOLEANS_OF_CLASSES.items()
            for inner in ("", ".init_args")
            for name in names
        }
        return {*super()._boolean_flags(), *of_classes, "estimate"}

    def prepare_args(self, args: Sequence[str]) -> list[str]:
        """Returns the arguments with whole lists in the place of their entries."""
        try:
            merged = merge_named(super().prepare_args(args))
        except (ValueError, YAMLError) as error:
            self.error(str(error))
        for flag, following in pairwise([*merged, "--"]):
            lacks_value = "=" not in flag and not flag.endswith(".help") and is_flag(following)
            if lacks_value and flag.startswith(_PREFIXES_OF_CLASSES):
                self.error(f"argument {flag}: expected one argument")  # argparse would only name the class's flag
        return merged

    def add_config(self) -> None:
        """Adds the option `--config`, and the help with all options."""
        self.add_argument("-c", "--config", action="config", help=CONFIG_HELP)
        self.add_argument("--help_all", action="help", help=HELP_ALL_HELP)

    def add_run(self) -> None:
        """Adds what belongs to the run as a whole, and links it to trainer, model and data."""
        self.add_argument("--run_dir", type=str, default=RUN_DIR, help=RUN_DIR_HELP)
        self.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH_HELP)
        self.add_argument("--resume_with_new_optimizer", type=bool, default=False, help=NEW_OPTIMIZER_HELP)
        self.add_argument("--init_from", type=str | None, default=None, help=INIT_FROM_HELP)
        self.add_argument("--preview", type=bool, default=False, help=PREVIEW_HELP)
        self.add_argument("--estimate", type=str | None, default=None, help=ESTIMATE_HELP)
        self.add_argument("--chats", type=bool, default=True, help=CHATS_HELP)
        self.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        self.set_defaults(CHECKPOINT_DEFAULTS)
        self.link_arguments("run_dir", "trainer.default_root_dir")
        self.link_arguments("run_dir", "checkpoint.dirpath", compute_fn=lambda path: str(RunFolder(path).checkpoints))
        self.link_arguments("model.init_args.model_dir", "data.init_args.tokenizer_dir")


def _take_counts_as_counts() -> None:
    """Lets `trainer.limit_val_batches: 1` be one batch, not all, as 1.0 is.

    jsonargparse takes the first type that fits, and `typing` keeps one object for `Optional[Union[int, float]]` and
    `Optional[Union[float, int]]`: that of the library that is imported first.
    """
    annotations = Trainer.__init__.__annotations__
    annotations.update({name: int | float | None for name in annotations if name.startswith("limit_")})
