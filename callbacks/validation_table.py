"""Shows the validation metrics of a run next to those before training."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from glmja.text.terminal import make_table, show


class ValidationTable(Callback):
    """Prints the validation metrics before training and after each validation, side by side.

    The metrics before training come from the sanity check. `trainer.num_sanity_val_steps: -1` lets it cover all
    validation data; its metrics are logged at step 0.
    """

    def __init__(self) -> None:
        """Creates the callback; no validation has run yet."""
        self.before: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        """Returns the metrics before training, so that a resumed run shows them."""
        return dict(self.before)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restores the metrics before training."""
        self.before = dict(state_dict)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        now = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if trainer.sanity_checking:
            self.before = now
            for logger in trainer.loggers:
                logger.log_metrics(now, step=0)
        self._print(now, trainer.global_step)

    @rank_zero_only
    def _print(self, now: dict[str, float], step: int) -> None:
        columns = [self.before, now] if step else [now]
        headings = ["validation", *["before", "now"][-len(columns) :]]
        rows = [(name, *(f"{column.get(name, float('nan')):.4f}" for column in columns)) for name in sorted(now)]
        title = "before training" if step == 0 else f"step {step}"
        show(make_table(headings, rows, title=title, align="right"))
