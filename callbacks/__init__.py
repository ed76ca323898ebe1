"""Callbacks: they observe a run, and save and stop it."""

from __future__ import annotations

import warnings
from typing import Any

from lightning import Callback

from callbacks.chat_sampler import ChatSampler
from callbacks.end_warnings import end_warnings
from callbacks.exact_resume import ExactResume
from callbacks.final_checkpoint import FinalCheckpoint
from callbacks.largest_batch_check import LargestBatchCheck
from callbacks.ledger_report import LedgerReport
from callbacks.model_line import ModelLine
from callbacks.non_finite_guard import NonFiniteGuard
from callbacks.progress_lines import ProgressLines
from callbacks.retention_guard import RetentionGuard
from callbacks.throughput import Throughput
from callbacks.validation_table import ValidationTable
from glmja.runs.run_folder import RunFolder

__all__ = [
    "ChatSampler",
    "ExactResume",
    "FinalCheckpoint",
    "LargestBatchCheck",
    "LedgerReport",
    "ModelLine",
    "NonFiniteGuard",
    "ProgressLines",
    "RetentionGuard",
    "Throughput",
    "ValidationTable",
    "end_warnings",
    "for_every_run",
]

_RENAMED = {"LossSentry": "NonFiniteGuard", "Rehearsal": "LargestBatchCheck"}


def for_every_run(run_dir: str, saves: bool = True) -> list[Callback]:
    """Returns the callbacks that every run gets besides the configured ones, and which make runs resumable.

    Args:
        run_dir: Folder of the run.
        saves: Whether the run saves checkpoints.
    """
    final = [FinalCheckpoint(str(RunFolder(run_dir).checkpoints))] if saves else []
    return [ExactResume(), LedgerReport(), ModelLine(), LargestBatchCheck(), ProgressLines(), *final]


def __getattr__(name: str) -> Any:
    """Returns a class under the name that configurations written before a renaming use."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"callbacks.{name} is now callbacks.{_RENAMED[name]}; change class_path, the old name will be removed",
        FutureWarning,
        stacklevel=2,
    )
    return globals()[_RENAMED[name]]
