"""`python -m glmja.fit --config …`: trains a model on data, both named in the configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from glmja.cli.closed_output import quiet_when_output_closes
from glmja.cli.command import one_line_errors, program, with_flags
from glmja.cli.config_safety import allow_imports
from glmja.cli.ctrl_c import exit_on_ctrl_c, keep_exit_code
from glmja.cli.fit_arguments import check_fit_arguments
from glmja.errors import DivergedError, DriftError, ExitCode

if TYPE_CHECKING:
    from lightning import Trainer

    from glmja.runs.contracts import TrainingData
    from glmja.tokenization.tokenizer import GLMTokenizer

# how this command spells the parameters that errors of the library name
FLAGS = {
    "accelerator": "--trainer.accelerator",
    "accumulate_grad_batches": "--trainer.accumulate_grad_batches",
    "attn_implementation": "--model.attn_implementation",
    "batch_size": "--data.batch_size",
    "check_val_every_n_epoch": "--trainer.check_val_every_n_epoch",
    "ckpt_path": "--ckpt_path",
    "context_share": "--data.context_share",
    "devices": "--trainer.devices",
    "dtype": "--model.dtype",
    "embedding_pull": "--model.embedding_pull",
    "embeddings": "--model.embeddings",
    "epochs": "--data.epochs",
    "family": "--model.family",
    "fused": "--model.optimizer.fused",
    "gradient_checkpointing": "--model.gradient_checkpointing",
    "init_from": "--init_from",
    "isolate_documents": "--data.isolate_documents",
    "lora": "--model.lora",
    "limit_val_batches": "--trainer.limit_val_batches",
    "log_every_n_steps": "--trainer.log_every_n_steps",
    "loss_chunk_len": "--model.loss_chunk_len",
    "lr": "--model.optimizer.lr",
    "lr_scheduler": "--model.lr_scheduler",
    "max_bad_share": "--data.max_bad_share",
    "max_steps": "--trainer.max_steps",
    "mix_by": "--data.mix_by",
    "model_dir": "--model.model_dir",
    "num_workers": "--data.num_workers",
    "optimizer": "--model.optimizer",
    "precision": "--trainer.precision",
    "resume_with_new_optimizer": "--resume_with_new_optimizer true",
    "retention": "--model.retention",
    "row_len": "--data.row_len",
    "run_dir": "--run_dir",
    "save_top_k": "--checkpoint.save_top_k",
    "seed": "--data.seed",
    "seed_everything": "--seed_everything",
    "strategy": "--trainer.strategy",
    "text_key": "text_key of the source in --data.sources",
    "tokens": "--data.tokens",
    "tokens_per_batch": "--data.tokens_per_batch",
    "tuning": "--model.tuning",
    "val_check_interval": "--trainer.val_check_interval",
    "val_share": "--data.val_share",
}


def main(args: list[str] | None = None) -> Trainer | None:
    """Fits a LightningModule on a LightningDataModule.

    Args:
        args: Arguments; those of the process by default.

    Returns:
        The trainer, after the run; None after an estimate.
    """
    with quiet_when_output_closes():
        prog = program("fit")
        with exit_on_ctrl_c(prog):
            check_fit_arguments(args, prog)
        return _fit(args, prog)


def _fit(args: list[str] | None, prog: str) -> Trainer | None:
    with exit_on_ctrl_c(prog):
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from callbacks import for_every_run
        from glmja.runs.contracts import training_data
        from lit_modules.fit_cli import FitCLI
        from lit_modules.messages import without_irrelevant_messages

    exit_codes = {
        MisconfigurationException: ExitCode.USAGE,
        DivergedError: ExitCode.DIVERGED,
        DriftError: ExitCode.NOT_RETAINED,
    }
    with one_line_errors(prog, exit_codes, flags=FLAGS), without_irrelevant_messages():
        allow_imports()
        with ExitStack() as resources:
            cli = FitCLI(for_every_run, prog, resources, args)
            if cli.config.estimate:
                _estimate(cli.config)
                return None
            if not cli.config.preview:
                start = time.monotonic()
                with _report_stop(cli.trainer, cli.config.run_dir):
                    trainer = cli.fit()
                if trainer.is_global_zero and not cli.is_short_run:
                    _show_ending(cli.config.run_dir, trainer, time.monotonic() - start)
                return trainer
            _preview(training_data(cli), cli.model.tokenizer)
            return cli.trainer


@contextmanager
def _report_stop(trainer: Trainer, run_dir: str) -> Iterator[None]:
    """Reports what a run that a signal ended has saved, and gives a run that Ctrl-C has cut short its exit code."""
    from glmja.text.terminal import show

    try:
        yield
    except SystemExit as stop:
        if not trainer.global_step:
            left = "before the first step, nothing is saved"
        elif stop.code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            left = (
                f"step {trainer.global_step:,} is saved in {run_dir}; the same command with --ckpt_path last continues"
            )
        else:
            left = "the last step is not saved; --ckpt_path last continues from the newest checkpoint, if there is one"
        if trainer.is_global_zero:
            show(f"stopped: {left}", style="bold yellow")
        keep_exit_code()
        # Lightning exits with 1 where Ctrl-C was not for `FinalCheckpoint` to answer
        raise SystemExit(ExitCode.INTERRUPTED if stop.code == 1 else stop.code) from None


def _show_ending(run_dir: str, trainer: Trainer, seconds: float) -> None:
    from callbacks import end_warnings
    from glmja.cli.ending import Ending, show_ending

    flags = {"checkpoint": run_dir, "output": "FOLDER"}
    ending = Ending(f"step {trainer.global_step:,} saved in {run_dir}", "export", flags, end_warnings(trainer))
    show_ending(ending, seconds, program(ending.next_command))


def _estimate(config: Any) -> None:
    """Shows what the run would need on several machines."""
    from glmja.modeling.gpus import MACHINES, parse_machine
    from glmja.text.terminal import make_table, show
    from lit_modules.estimate import RESERVED, UTILIZATION, RunShape, as_rows, estimate

    named = MACHINES if config.estimate == "true" else config.estimate.split(",")
    shape = RunShape.of(config)
    found = estimate(shape, [parse_machine(machine) for machine in named])
    headings = ["GB on each GPU", *(f"{one.count} × {one.gpu.name}" for one in found)]
    rows = [tuple(with_flags(cell, FLAGS) for cell in row) for row in as_rows(found)]
    show(make_table(headings, rows, title="Estimate, by arithmetic and not measured", align="right"))
    if not shape.has_model:
        show(f"{shape.model_dir} is not there: with the shapes of ChatGLM3-6B and 13,756 new pieces.")
    show(
        f"{shape.batch_tokens:,} tokens in a micro-batch. Hours at {100 * UTILIZATION:.0f} % of the GPUs' peak, "
        f"without validation and saving. Buffers are those of ZeRO-2 and {RESERVED / 1e9} GB of CUDA."
    )
    show("OK: nothing was started; leave out --estimate to train", style="bold green")


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
    show("OK: nothing was trained; leave out --preview to train", style="bold green")


if __name__ == "__main__":
    main()
