"""Kinds of what can be wrong, so that a command's exit code can tell them apart."""

from __future__ import annotations


class DataError(ValueError):
    """Text or conversations cannot be used."""


class ModelError(ValueError):
    """A model, tokenizer, checkpoint or language pack cannot be used, or does not belong where it is given."""


class MachineError(OSError):
    """The machine cannot do what is asked: a port is in use, say."""
