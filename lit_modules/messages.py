"""Messages of Lightning, peft and torch that the user of a run cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_VERBOSE_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "lightning.fabric.utilities.seed",
    "DeepSpeed",
)
_IRRELEVANT_LOGS = (
    "litlogger",  # an advertisement
    "`weights_only` was not set",  # a false alarm
    "Seed set to",  # it is in the run's config.yaml
    "Setting accelerator to CPU",  # as for the next line
    "GPU available:",  # the line about the model says on what it runs, and a missing GPU is an error of its own
    "TPU available",
    "Detected KeyboardInterrupt",  # the command says what is saved
    "`Trainer.fit` stopped:",  # the command ends with the step that it saved
    "`Trainer(val_check_interval",  # callbacks.ValidationTable says it in optimizer steps
)
_IRRELEVANT_WARNINGS = (
    "LightningCLI's args parameter",  # the demo and the tests pass arguments
    "`gradient_checkpointing_enable` is deprecated",  # its new name is not in all transformers that work
    "`is_gradient_checkpointing` is deprecated",  # raised by peft's use of transformers
    r"`isinstance\(treespec, LeafSpec\)`",  # raised by Lightning's use of torch
)


@contextmanager
def without_irrelevant_messages() -> Iterator[None]:
    """Hides messages of Lightning, peft and torch that the user cannot act on."""
    loggers = [logging.getLogger(name) for name in _VERBOSE_LOGGERS]

    def is_relevant(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in _IRRELEVANT_LOGS)

    for logger in loggers:
        logger.addFilter(is_relevant)
    try:
        with warnings.catch_warnings():
            for message in _IRRELEVANT_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_relevant)
