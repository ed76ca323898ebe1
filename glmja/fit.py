"""`python -m glmja.fit --config …`: trains a model on data, both named in the configuration."""

from __future__ import annotations

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType

from callbacks import for_every_run
from glmja.cli.command import USAGE_ERROR, one_line_errors
from glmja.cli.config_safety import allow_imports
from glmja.errors import DivergedError
from lit_modules.fit_cli import PROGRAM, FitCLI, without_irrelevant_messages

DIVERGED = 6
# how this command spells the parameters that errors of the library name
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

EXIT_CODES = {MisconfigurationException: USAGE_ERROR, DivergedError: DIVERGED}


def main(args: ArgsType = None) -> Trainer:
    """Fits a LightningModule on a LightningDataModule.

    Returns:
        The trainer, after the run.
    """
    with one_line_errors(PROGRAM, EXIT_CODES, flags=FLAGS), without_irrelevant_messages():
        allow_imports()
        return FitCLI(for_every_run, args).fit()


if __name__ == "__main__":
    main()
