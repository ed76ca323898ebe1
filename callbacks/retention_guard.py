"""Stops a run before it loses a language."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from glmja.errors import DriftError
from glmja.evaluation.resampling import bootstrap_interval, relative_change
from glmja.modeling.batch import IGNORE_INDEX, Batch
from glmja.runs.contracts import training_data
from glmja.text.terminal import make_table, show

log = logging.getLogger(__name__)

RowLosses = dict[str, float]  # summed loss in nats by SOURCE:ROW, of the validation rows of a language

_TRIMMED = 0.01  # share of the rows that are left out at each end
_NUM_SAMPLES = 1000  # of the bootstrap


class ValidationDrift(NamedTuple):
    """Relative increase of the loss of a language since before training; 0.01 is 1 % more bits per character."""

    trimmed: float  # without the rows that changed most; what is compared with the limit
    low: float  # 95 % interval of `trimmed`
    high: float
    mean: float  # of all rows
    num_rows: int


class RetentionGuard(Callback):
    """Compares languages to keep with their validation before training, and ends the run if one has drifted too far.

    The drift of a language is the relative increase of its bits per character on the validation rows. The mean over all
    rows can hang on two documents, so the rows whose loss changed most, 1 % of the rows at each end and at least one,
    are left out; the interval is a bootstrap over the other rows. From half of `max_drift` on, each validation warns.
    Beyond it, the run saves a checkpoint and ends with `DriftError`. Logged are `val/LANG/drift`,
    `val/LANG/drift_low`, `val/LANG/drift_high` and `val/LANG/drift_mean`.

    The values before training come from the sanity check, which must cover all validation data
    (`trainer.num_sanity_val_steps: -1`, the default of `fit`). Checkpoints hold them.
    """

    def __init__(self, languages: list[str], max_drift: float = 0.02) -> None:
        """Creates the callback; no validation has run yet.

        Args:
            languages: Languages to keep, as `lang` of the sources.
            max_drift: Largest relative increase of a language's bits per character; 0.02 is 2 %.

        Raises:
            ValueError: If there is no language, or the limit is not positive.
        """
        if not languages:
            raise ValueError("RetentionGuard: languages is empty; name the languages to keep, as `lang` of the sources")
        if not 0 < max_drift < math.inf:
            raise ValueError(f"RetentionGuard: max_drift ({max_drift}) must be positive; 0.02 is 2 %")
        self.languages, self.max_drift = languages, max_drift
        self.before: dict[str, RowLosses] = {}
        self.drift: dict[str, float] = {}
        self._now: dict[str, RowLosses] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the values before training and the last drifts, so that a resumed run goes on from them."""
        return {"before": self.before, "drift": self.drift}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.before, self.drift = state_dict["before"], state_dict["drift"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that all validation data of the languages is validated before training.

        Raises:
            ValueError: If it is not, or a language has none.
        """
        langs = {source.lang for source in training_data(trainer).validation_sources}
        for lang in self.languages:
            if lang not in langs:
                raise ValueError(
                    f"RetentionGuard: the language {lang} has no validation data, only {', '.join(sorted(langs))}; "
                    "correct languages, or set `val_share` or the source's val_files"
                )
        if not trainer.limit_val_batches or trainer.num_sanity_val_steps != math.inf:
            raise ValueError(
                "RetentionGuard needs all validation data before training; set trainer.num_sanity_val_steps to -1 and "
                "trainer.limit_val_batches above 0, or remove the callback"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that there are values before training, and does not go on with a run that has drifted too far.

        Raises:
            DriftError: If a language has drifted too far before.
            ValueError: If the run resumes from a checkpoint without values before training.
        """
        missing = [lang for lang in self.languages if lang not in self.before]
        if missing:
            raise ValueError(
                f"RetentionGuard: the checkpoint holds no validation of {', '.join(missing)} before training; remove "
                "the callback, or start a new run with `init_from`"
            )
        self._check()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the losses of the last validation."""
        self._now = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the losses of the rows of a batch."""
        source = training_data(trainer).validation_sources[dataloader_idx]
        if source.lang not in self.languages:
            return
        assert isinstance(outputs, Tensor)
        has_targets = (batch["labels"][:, 1:] != IGNORE_INDEX).any(1).tolist()
        rows = self._now.setdefault(source.lang, {})
        for row, nats, has in zip(batch["row_numbers"].tolist(), outputs.tolist(), has_targets, strict=True):
            if has:  # another rank has the row otherwise
                rows[f"{source.name}:{row}"] = nats

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares with the values before training, warns, and ends the run if a language has drifted too far."""
        now = _gathered(self._now, trainer.world_size)
        if trainer.sanity_checking:
            self.before = now
            return
        drifts = {lang: measure(self.before[lang], now[lang]) for lang in self.languages if lang in self.before}
        self.drift = {lang: drift.trimmed for lang, drift in drifts.items()}
        self._report(trainer, drifts)
        self._stop_after_step(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Ends the run after an optimizer step if a language has drifted too far."""
        self._stop_after_step(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends with an error if a language has drifted too far, once the last checkpoint is saved.

        Raises:
            DriftError: If one has.
        """
        if trainer.local_rank == 0:  # Lightning's launcher kills the main process if one that it launched fails
            self._check()

    @property
    def _exceeded(self) -> list[str]:
        return [lang for lang, drift in self.drift.items() if not drift <= self.max_drift]  # or NaN

    def _stop_after_step(self, trainer: Trainer) -> None:
        """Ends the run where it can be saved: a validation may come between accumulated micro-batches."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if self._exceeded and batches % trainer.accumulate_grad_batches == 0:
            trainer.should_stop = True

    def _check(self) -> None:
        for lang in self._exceeded:
            raise DriftError(
                f"the bits per character of {lang} have risen by {self.drift[lang]:.2%} since before training, more "
                f"than RetentionGuard's max_drift ({self.max_drift:.2%}); raise the weight of `retention` or the share "
                f"of {lang}, lower the learning rate, or raise max_drift and resume"
            )

    @rank_zero_only
    def _report(self, trainer: Trainer, drifts: Mapping[str, ValidationDrift]) -> None:
        step = trainer.global_step
        for lang, drift in drifts.items():
            values = {"": drift.trimmed, "_low": drift.low, "_high": drift.high, "_mean": drift.mean}
            for logger in trainer.loggers:
                logger.log_metrics({f"val/{lang}/drift{name}": value for name, value in values.items()}, step=step)
            if not drift.trimmed <= self.max_drift / 2:
                log.warning(
                    "step %d: the bits per character of %s have risen by %.2f %% since before training; at %.2f %%, "
                    "the run ends",
                    step, lang, 100 * drift.trimmed, 100 * self.max_drift,
                )  # fmt: skip
        headings = ["drift", "trimmed mean", "95 % interval", "mean", "rows"]
        rows = [
            (lang, f"{d.trimmed:+.2%}", f"{d.low:+.2%} to {d.high:+.2%}", f"{d.mean:+.2%}", f"{d.num_rows:,}")
            for lang, d in drifts.items()
        ]
        title = f"bits per character since before training, step {step}"
        show(make_table(headings, rows, title=title, align="right"))


def measure(before: RowLosses, now: RowLosses) -> ValidationDrift:
    """Compares the losses of the same rows; see `RetentionGuard`.

    Raises:
        ValueError: If the rows are not the same.
    """
    if before.keys() != now.keys():
        raise ValueError(
            f"RetentionGuard: {len(now.keys() ^ before.keys())} validation rows differ from those before training; set "
            "trainer.limit_val_batches and the batch size as they were, or remove the callback"
        )
    names = sorted(before)
    old_N, new_N = (np.array([losses[name] for name in names]) for losses in (before, now))
    cut = max(1, round(_TRIMMED * len(names))) if len(names) > 2 else 0
    kept = np.argsort(new_N - old_N, kind="stable")[cut : len(names) - cut]
    low, high = bootstrap_interval(old_N[kept], new_N[kept], _NUM_SAMPLES)
    trimmed, mean = relative_change(old_N[kept], new_N[kept]), relative_change(old_N, new_N)
    return ValidationDrift(float(trimmed), low, high, float(mean), len(names))


def _gathered(own: dict[str, RowLosses], world_size: int) -> dict[str, RowLosses]:
    """Returns the rows of all processes."""
    parts: list[Any] = [own]
    if world_size > 1:
        parts = [None] * world_size
        torch.distributed.all_gather_object(parts, own)
    return {
        lang: {name: nats for part in parts for name, nats in part.get(lang, {}).items()}
        for lang in sorted({lang for part in parts for lang in part})
    }
