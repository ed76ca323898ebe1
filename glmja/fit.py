"""`python -m glmja.fit --config …`: trains a model on data, both named in the configuration."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from glmja.cli.closed_output import quiet_when_output_closes
from glmja.cli.command import USAGE_ERROR, one_line_errors, program
from glmja.cli.config_safety import allow_imports
from glmja.cli.fit_arguments import check_fit_arguments
from glmja.errors import DivergedError

if TYPE_CHECKING:
    from lightning import Trainer

    from glmja.runs.contracts import TrainingData
    from glmja.tokenization.tokenizer import GLMTokenizer

DIVERGED = 6
# how this command spells the parameters that errors of the library name
FLAGS = {
    "accumulate_grad_batches": "--trainer.accumulate_grad_batches",
    "batch_size": "--data.init_args.batch_size",
    "ckpt_path": "--ckpt_path",
    "devices": "--trainer.devices",
    "dtype": "--model.init_args.dtype",
    "embeddings": "--model.init_args.embeddings",
    "family": "--model.init_args.family",
    "fused": "--model.init_args.optimizer.init_args.fused",
    "gradient_checkpointing": "--model.init_args.gradient_checkpointing",
    "init_from": "--init_from",
    "lora": "--model.init_args.lora",
    "lr_scheduler": "--model.init_args.lr_scheduler",
    "max_steps": "--trainer.max_steps",
    "model_dir": "--model.init_args.model_dir",
    "num_workers": "--data.init_args.num_workers",
    "precision": "--trainer.precision",
    "resume_with_new_optimizer": "--resume_with_new_optimizer true",
    "row_len": "--data.init_args.row_len",
    "run_dir": "--run_dir",
    "save_top_k": "--checkpoint.save_top_k",
    "seed_everything": "--seed_everything",
    "strategy": "--trainer.strategy",
    "text_key": "text_key of the source in data.init_args.sources",
    "tuning": "--model.init_args.tuning",
    "tokens_per_batch": "--data.init_args.tokens_per_batch",
}


def main(args: list[str] | None = None) -> Trainer:
    """Fits a LightningModule on a LightningDataModule.

    Args:
        args: Arguments; those of the process by default.

    Returns:
        The trainer, after the run.
    """
    with quiet_when_output_closes():
        prog = program("fit")
        check_fit_arguments(args, prog)
        return _fit(args, prog)


def _fit(args: list[str] | None, prog: str) -> Trainer:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from callbacks import for_every_run
    from glmja.runs.contracts import training_data
    from lit_modules.fit_cli import FitCLI
    from lit_modules.messages import without_irrelevant_messages

    exit_codes = {MisconfigurationException: USAGE_ERROR, DivergedError: DIVERGED}
    with one_line_errors(prog, exit_codes, flags=FLAGS), without_irrelevant_messages():
        allow_imports()
        with ExitStack() as resources:
            cli = FitCLI(for_every_run, prog, resources, args)
            if not cli.config.preview:
                return cli.fit()
            _preview(training_data(cli), cli.model.tokenizer)
            return cli.trainer


def _preview(data: TrainingData, tokenizer: GLMTokenizer) -> None:
    """Shows the first example of each source; target tokens are green, or between marks where there are no colors."""
    import sys

    from glmja.conversation.rendering import marked
    from glmja.conversation.rendering import show as colored
    from glmja.text.terminal import show

    formatted = colored if sys.stdout.isatty() else marked
    for example in data.first_examples():
        show(
            f"{example.source}: {len(example.ids):,} tokens, {sum(example.loss_mask):,} of them target tokens",
            formatted(example.ids, example.loss_mask, tokenizer),
        )


if __name__ == "__main__":
    main()
