"""What a run reads, before it reads it."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from glmja.files.json_files import write_json


class LedgerReport(Callback):
    """Prints the data module's ledger, and keeps it as `ledger.json` and in TensorBoard."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        if trainer.is_global_zero:
            ledger = trainer.datamodule.ledger  # type: ignore[attr-defined]
            Console().print(ledger.table(), ledger.summary(), sep="\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, once training is sure to start."""
        if not trainer.is_global_zero:
            return
        ledger = trainer.datamodule.ledger  # type: ignore[attr-defined]
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(trainer.default_root_dir) / "ledger.json", ledger.as_dict())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("ledger", ledger.markdown(), trainer.global_step)
