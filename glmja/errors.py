"""Exceptions of the library and exit codes of the commands; `glmja.cli.command.one_line_errors` maps one to the other.

A message names a parameter in backticks, as in "set `overwrite` to replace it". A command that has the parameter shows
its flag instead, so no part of the library needs to know the flags of a command.
"""

from __future__ import annotations

import signal
import sys
from enum import IntEnum

# what to lower or set when a training run is out of memory
LESS_MEMORY = "`batch_size` (or `tokens_per_batch`) or `row_len`, or set `gradient_checkpointing`"


class ExitCode(IntEnum):
    """Exit code of a command that does not succeed; README.md and docs/troubleshooting.md list them for users.

    Attributes:
        USAGE: The command line, the configuration or a path is wrong.
        DATA: Documents or conversations cannot be used.
        MODEL: A model, tokenizer, checkpoint or language pack is damaged or does not match.
        MACHINE: The machine cannot do what is requested.
        DIVERGED: Several steps in a row had a non-finite loss or gradient.
        NOT_RETAINED: A language that should be retained is lost or changed, or has drifted too far during training.
        INCONCLUSIVE: There are too few documents for a verdict on retention.
        INTERRUPTED: The command was stopped by Ctrl-C.
        CLOSED_OUTPUT: Nobody reads the output any more.
        TERMINATED: A training run was stopped by SIGTERM or SIGUSR1; it has saved if training had begun.
    """

    USAGE = 2
    DATA = 3
    MODEL = 4
    MACHINE = 5
    DIVERGED = 6
    NOT_RETAINED = 7
    INCONCLUSIVE = 8
    # as shells report programs that the signal has ended
    INTERRUPTED = 128 + signal.SIGINT
    CLOSED_OUTPUT = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


class DataError(ValueError):
    """Raised when documents or conversations cannot be used."""


class ModelError(ValueError):
    """Raised when a model, tokenizer, checkpoint or language pack is damaged, unsupported or does not match."""


class MachineError(OSError):
    """Raised when the machine cannot do what is requested, for example because a port is in use."""


class DivergedError(RuntimeError):
    """Raised when several steps in a row had a non-finite loss or gradient; none of them changed a weight."""


class DriftError(RuntimeError):
    """Raised when a language that a run should keep has drifted too far from the base model."""


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an exception means that the GPU or the host is out of memory."""
    torch = sys.modules.get("torch")  # not imported here, so that --help is fast
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # torch has no exception of its own for the memory of the host
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
