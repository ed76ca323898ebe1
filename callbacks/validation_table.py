"""Shows the validation metrics of a run next to those before training."""

from __future__ import annotations

from math import isfinite

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from glmja.text.terminal import make_table, show


class ValidationTable(Callback):
    """Prints the validation metrics before training and after each validation, side by side with their change.

    Says at the start of training after how many optimizer steps a validation follows: `trainer.val_check_interval`
    counts micro-batches, of which a step has `accumulate_grad_batches`.

    The metrics before training come from the sanity check. `trainer.num_sanity_val_steps: -1` lets it cover all
    validation data; its metrics are logged at step 0.
    """

    def __init__(self) -> None:
        """Creates the callback; no validation has run yet."""
        self.before: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        """Returns the metrics before training, so that a resumed run shows them."""
        return dict(self.before)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restores the metrics before training."""
        self.before = dict(state_dict)

    def rises(self) -> dict[str, float]:
        """Returns the relative change of each metric from before training to the last validation; positive is worse."""
        return {name: now / before - 1 for name, now in self.last.items() if (before := self.before.get(name))}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints how often the model is validated."""
        batches = trainer.val_check_batch
        if trainer.enable_validation and isinstance(batches, int):
            self._print_interval(batches, trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        now = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if trainer.sanity_checking:
            self.before = now
            for logger in trainer.loggers:
                logger.log_metrics(now, step=0)
        self.last = now
        self._print(now, trainer.global_step)

    @rank_zero_only
    def _print_interval(self, batches: int, in_step: int) -> None:
        why = f" ({batches:,} micro-batches, {in_step} in a step)" if in_step > 1 else ""
        show(f"validation every {batches / in_step:,.5g} optimizer steps{why}")

    @rank_zero_only
    def _print(self, now: dict[str, float], step: int) -> None:
        headings = ["validation", "before", "now", "change"] if step else ["validation", "now"]
        rows = []
        for name, value in sorted(now.items()):
            before = self.before.get(name)
            rows.append(
                [name, _shown(before), _shown(value), _change(before, value)] if step else [name, _shown(value)]
            )
        title = "before training" if step == 0 else f"step {step}"
        show(make_table(headings, rows, title=title, align="right"))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _change(before: float | None, now: float) -> str:
    return f"{now / before - 1:+.1%}" if before and isfinite(before) and isfinite(now) else "–"
