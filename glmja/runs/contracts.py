"""Protocols of data modules, on which training modules, callbacks and the command line rely.

The packages that import Lightning import this module instead of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from glmja.runs.identity import RunIdentity
from glmja.runs.ledger import Ledger
from glmja.tokenization.tokenizer import GLMTokenizer


class ValidationSource(Protocol):
    """A source with a validation loader."""

    @property
    def name(self) -> str:
        """Name, as in the metric `val/NAME/loss`."""
        ...

    @property
    def lang(self) -> str:
        """Language, as in the metric `val/LANG/bits_per_char`."""
        ...


class Example(NamedTuple):
    """Token ids of a document or conversation to train on."""

    source: str
    ids: list[int]
    loss_mask: list[bool]  # for each id, whether it is a target token


@runtime_checkable
class TrainingData(Protocol):
    """A LightningDataModule that plans all micro-batches of a run before the first step.

    Attributes:
        row_len: Largest number of tokens in a row.
        num_steps: Number of optimizer steps of the run; set by `setup`.
        validation_sources: Sources in the order of the validation loaders.
        row_sources: Sources as batches number them; None if a row may hold several.
        fingerprint: Hash of everything that the micro-batches depend on; None before `setup`.
        settings: What the fingerprint depends on, by name; None before `setup`.
        saved: Identity of the run that saved the checkpoint to resume from; None if there is none.
        ledger: What the run reads; set by `setup`.
    """

    row_len: int
    num_steps: int
    validation_sources: Sequence[ValidationSource]
    row_sources: Sequence[ValidationSource] | None
    fingerprint: str | None
    settings: Mapping[str, object] | None
    saved: RunIdentity | None
    ledger: Ledger

    def plan_ranks(self) -> int:  # no property: an isinstance check would evaluate it before there is a trainer
        """Returns the number of processes that the order of the micro-batches was made for."""
        ...

    def check_files(self) -> None:
        """Reads the first record of each file of all sources; raises what is wrong with any of them."""
        ...

    def first_examples(self) -> list[Example]:
        """Returns the first example of each source, without tokenizing the rest."""
        ...

    def use_tokenizer(self, tokenizer: GLMTokenizer) -> None:
        """Sets the tokenizer, so that it is not loaded a second time."""
        ...


def find_training_data(trainer: object) -> TrainingData | None:
    """Returns the data module of a Lightning trainer if it implements `TrainingData`; None otherwise."""
    data = getattr(trainer, "datamodule", None)  # Lightning sets the attribute, but does not declare it
    return data if isinstance(data, TrainingData) else None


def training_data(trainer: object) -> TrainingData:
    """Returns the data module of a Lightning trainer.

    Raises:
        ValueError: If it does not implement `TrainingData`; the message names what is missing.
    """
    data = find_training_data(trainer)
    if data is None:
        given = getattr(trainer, "datamodule", None)
        members = [*TrainingData.__annotations__, *(name for name in vars(TrainingData) if name[0] != "_")]
        missing = [name for name in members if not hasattr(given, name)]
        raise ValueError(
            f"the data module does not plan its run (it has no {', '.join(missing)}); use a class of data_modules"
        )
    return data
