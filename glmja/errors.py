"""Kinds of what can be wrong, so that a command's exit code can tell them apart."""

from __future__ import annotations

import sys

# of a training run
LESS_MEMORY = "data.init_args.batch_size (tokens_per_batch) or row_len, or set model.init_args.gradient_checkpointing"


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
