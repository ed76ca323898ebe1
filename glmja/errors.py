"""Exceptions of the library; each has its own exit code (`glmja.cli.command.one_line_errors`).

A message names a parameter in backticks, as in "set `overwrite` to replace it". A command that has the parameter shows
its flag instead, so no part of the library needs to know the flags of a command.
"""

from __future__ import annotations

import sys

# what to lower or set when a training run is out of memory
LESS_MEMORY = "`batch_size` (or `tokens_per_batch`) or `row_len`, or set `gradient_checkpointing`"


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
