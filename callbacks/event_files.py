"""TensorBoard's event files of a resumed run: each step is in them once."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from glmja.runs.run_folder import RunFolder

_PATTERN = "*tfevents*"  # TensorBoard reads files with such names
_VALIDATION = "val/"  # prefix of all metrics of a validation
_FRAME = 16  # bytes of length and checksums around a record

Sizes = dict[str, int]  # bytes of each event file, by its name


def flush_event_files(trainer: Trainer) -> Sizes:
    """Writes pending records to the disk.

    Args:
        trainer: The trainer. Only the first process has files.

    Returns:
        The present sizes of the event files of the run; empty if another logger is used.
    """
    for logger in trainer.loggers:
        logger.save()
    return {path.name: path.stat().st_size for logger in _loggers(trainer) for path in _files(logger)}


def remove_records_after(trainer: Trainer, sizes: Sizes, step: int) -> None:
    """Removes what was logged after a checkpoint, since a run that resumes from it logs those steps again.

    TensorBoard's own `purge_step` does not suffice: a validation after `step` optimizer steps may have been logged
    before the checkpoint was saved, and must stay, or after it, and is repeated. It only serves programs that are
    showing the run: they forget the removed steps when they read the next file.

    Args:
        trainer: The trainer, before its training starts. It goes on in a new file.
        sizes: What `flush_event_files` returned when the checkpoint was saved.
        step: Number of optimizer steps of the checkpoint.
    """
    for logger in _loggers(trainer):
        logger.experiment.close()
        logger.experiment.purge_step = step + 1
        for path in _files(logger):
            _shorten(path, sizes.get(path.name, 0), step)


def remove_records(trainer: Trainer) -> None:
    """Removes what an earlier run logged that left no checkpoint in its folder.

    Args:
        trainer: The trainer of a run from the start.
    """
    for logger in _loggers(trainer):
        logger.experiment.close()
        for path in _files(logger):
            path.unlink()


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Returns the TensorBoard logger of the run folder; others may have files of other runs in their folders."""
    own = RunFolder(trainer.default_root_dir).tensorboard.resolve()
    return [
        logger
        for logger in trainer.loggers
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and Path(logger.log_dir).resolve() == own
    ]


def _files(logger: TensorBoardLogger) -> list[Path]:
    return sorted(Path(logger.log_dir).glob(_PATTERN))


def _shorten(path: Path, size: int, step: int) -> None:
    """Keeps the first `size` bytes of a file, and of the rest the training metrics before a step.

    Lightning logs the metrics of the last step before a checkpoint with the number of the step before, and after
    saving. A validation after that step has the same number, and is repeated by the resumed run.
    """
    if path.stat().st_size == size:
        return
    # importing them takes a second
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore  # noqa: PLC0415
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore  # noqa: PLC0415
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore  # noqa: PLC0415

    partial, end = path.with_name(f".partial-{path.name.replace('tfevents', '')}"), 0
    with partial.open("wb") as file:
        writer = RecordWriter(file)
        for record in RawEventFileLoader(str(path)).Load():
            end += len(record) + _FRAME
            event = Event.FromString(record)
            validation = any(value.tag.startswith(_VALIDATION) for value in event.summary.value)
            if end <= size or (event.step < step and not validation):
                writer.write(record)
    partial.replace(path)
