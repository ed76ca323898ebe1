"""Shows how many tokens of each source a run reads, before it reads them."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from glmja.files.json_files import write_json
from glmja.runs.contracts import training_data
from glmja.runs.run_folder import RunFolder
from glmja.text.terminal import show


class LedgerReport(Callback):
    """Prints the data module's ledger, and saves it as `RUN_DIR/ledger.json` and in TensorBoard."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        if trainer.is_global_zero:
            ledger = training_data(trainer).ledger
            show(ledger.table(), ledger.summary())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files once all checks have passed."""
        if not trainer.is_global_zero:
            return
        ledger, run = training_data(trainer).ledger, RunFolder(trainer.default_root_dir)
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.ledger, ledger.as_dict())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("ledger", ledger.markdown(), trainer.global_step)
