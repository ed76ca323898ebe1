"""Exceptions of the library; each kind has its own exit code (`glmja.cli.command`).

A message names a parameter in backticks, as in "set `overwrite` to replace it". A command that has the parameter shows
its flag instead, so no part of the library needs to know the flags of a command.
"""

from __future__ import annotations

import sys

# remedy when a training run is out of memory
LESS_MEMORY = "`batch_size` (or `tokens_per_batch`) or `row_len`, or set `gradient_checkpointing`"


class DataError(ValueError):
    """Text or conversations cannot be used."""


class ModelError(ValueError):
    """A model, tokenizer, checkpoint or language pack cannot be used, or does not belong where it is given."""


class MachineError(OSError):
    """The machine cannot do what is asked: a port is in use, say."""


class DivergedError(RuntimeError):
    """Raised when steps in a row had a loss or gradients that are not finite; none of them changed a weight."""


def is_out_of_memory(error: Exception) -> bool:
    """On a GPU, or on the host, where torch has no exception of its own for it."""
    torch = sys.modules.get("torch")  # not imported for this: --help should not wait for it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
