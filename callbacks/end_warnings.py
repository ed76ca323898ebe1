"""Warnings that are shown at the end of a run."""

from __future__ import annotations

from lightning import Trainer

from callbacks.validation_table import ValidationTable
from glmja.evaluation.retention import RetentionLimits
from glmja.modeling.contracts import training_module
from glmja.runs.run_folder import RunFolder

RISE = RetentionLimits.max_drift  # of bits per character, above which a run warns, as `evaluate` does


def end_warnings(trainer: Trainer) -> list[str]:
    """Returns a sentence for each text that became less likely during a run, and one if steps were skipped.

    Args:
        trainer: The trainer, after the run.
    """
    found = []
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    table = next((callback for callback in callbacks if isinstance(callback, ValidationTable)), None)
    for name, rise in sorted(table.rises().items() if table else ()):
        if name.endswith("/bits_per_char") and not rise <= RISE:  # or NaN
            found.append(f"{name} rose by {rise:.1%} since before training")
    skipped = training_module(trainer.lightning_module).num_skipped_steps
    if skipped and not str(trainer.precision).startswith("16"):  # with which a gradient scaler looks for its scale
        batches = RunFolder(trainer.default_root_dir).bad_batches
        found.append(f"{skipped} steps without finite loss or gradients were skipped; their batches are in {batches}")
    return found
