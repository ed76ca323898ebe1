"""Callbacks of Lightning that cannot work in a planned run that can be resumed, and metrics that nothing logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lightning import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, Timer

# what each of Lightning's callbacks would do here, and what to use instead
REFUSED: dict[type[Callback], str] = {
    lightning_callbacks.BackboneFinetuning: "it freezes a backbone by name; set `tuning`",
    lightning_callbacks.BaseFinetuning: "it changes what is trained during the run; set `tuning`",
    lightning_callbacks.BatchSizeFinder: "the plan of the run needs the batch size; callbacks.LargestBatchCheck "
    "reports before the first step whether it fits",
    lightning_callbacks.GradientAccumulationScheduler: "it changes the plan of the run; set "
    "trainer.accumulate_grad_batches",
    lightning_callbacks.LearningRateFinder: "it trains before the run, on its data; try rates in runs with max_steps",
    lightning_callbacks.ModelPruning: "it renames the trained parameters, which could not be resumed or exported",
    lightning_callbacks.OnExceptionCheckpoint: "it saves between the micro-batches of a step, and hangs if one process "
    "fails; every run saves its last step on SIGTERM, SIGUSR1 or Ctrl-C",
    lightning_callbacks.SpikeDetection: "it expects another loss and skips batches of the plan; use "
    "callbacks.NonFiniteGuard",
    lightning_callbacks.StochasticWeightAveraging: "it replaces the schedule and counts epochs, of which a run has one",
    lightning_callbacks.ThroughputMonitor: "it needs functions that a configuration cannot give; use "
    "callbacks.Throughput",
    lightning_callbacks.WeightAveraging: "checkpoints hold the trained weights only, not their average",
}


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Checks the callbacks of a run.

    Raises:
        ValueError: If one of them cannot work.
    """
    for callback in callbacks:
        name = type(callback).__name__
        reason = next((why for kind, why in REFUSED.items() if isinstance(callback, kind)), None)
        if reason:
            raise ValueError(f"trainer.callbacks: {name} cannot be used: {reason}")
        if isinstance(callback, Timer) and callback._interval == "epoch":
            raise ValueError(
                "trainer.callbacks: Timer with interval epoch would never end the run, which is one epoch; set "
                "interval to step, or trainer.max_time"
            )
        if isinstance(callback, ModelCheckpoint):
            _check_checkpoint(callback)


def _check_checkpoint(callback: ModelCheckpoint) -> None:
    if callback.save_last:
        raise ValueError(
            f"checkpoint.save_last ({callback.save_last}) would overwrite a checkpoint, which is never done; leave it "
            "out: `ckpt_path` last finds the newest one"
        )
    if callback.filename is not None and "{step" not in callback.filename:
        raise ValueError(
            f"checkpoint.filename ({callback.filename}) needs a {{step}}: a checkpoint is never overwritten, so each "
            "needs a name of its own"
        )
    if callback.save_weights_only:
        raise ValueError(
            "checkpoint.save_weights_only: the run could not be resumed from its checkpoints; leave it out, and write "
            "the weights with the command export"
        )
    if callback.save_on_exception:
        raise ValueError(
            "checkpoint.save_on_exception would save between the micro-batches of a step, and hang if one process "
            "fails; leave it out: every run saves its last step on SIGTERM, SIGUSR1 or Ctrl-C"
        )


def check_monitors(trainer: Trainer, logged: Collection[str]) -> None:
    """Checks that what callbacks monitor is logged, and that they look for its minimum.

    Args:
        trainer: The trainer.
        logged: Metrics of the module, all of which are better the lower they are.

    Raises:
        ValueError: If a callback waits for a metric that nothing logs, or prefers the worst checkpoint.
    """
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not trainer.limit_val_batches:
        logged = [name for name in logged if not name.startswith("val/")]
    others_log = any(not _is_known(callback) for callback in callbacks)
    rates = any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint | EarlyStopping) or callback.monitor is None:
            continue
        kind, monitor = type(callback).__name__, callback.monitor
        own = isinstance(callback, ModelCheckpoint) and monitor in ("step", "epoch")
        if monitor in logged and callback.mode == "max":
            raise ValueError(f"{kind}: monitor {monitor} with mode max would prefer the worst value; set mode to min")
        if not (own or monitor in logged or others_log or (rates and monitor.startswith("lr-"))):
            known = ", ".join(sorted(logged)) or "none"
            raise ValueError(f"{kind}: nothing logs the monitor {monitor}; logged are {known}")


def _is_known(callback: Callback) -> bool:
    """Returns whether a callback is known to log nothing that can be monitored, but learning rates."""
    return type(callback).__module__.split(".")[0] in ("callbacks", "lightning", "lit_modules")
