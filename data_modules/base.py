"""What the data of every run has in common: how long the run is, its loaders, its ledger."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.loader import DistributedEvalBatches, Plan, PlannedBatches, RunLoader, load
from data_modules.batches.rows import Rows
from glmja.families.recognition import load_tokenizer
from glmja.modeling.batch import Batch
from glmja.runs.ledger import Ledger


class Source(Protocol):
    """What both kinds of sources have."""

    @property
    def name(self) -> str:
        """As in `val/NAME/loss`."""

    @property
    def lang(self) -> str:
        """As in `val/LANG/bits_per_char`."""

    @property
    def weight(self) -> float | None:
        """Share of the run in tokens."""


class RunData(LightningDataModule):
    """The micro-batches of a run, planned before its first step.

    Attributes:
        row_len: Tokens of the longest row.
        validation_sources: The sources in the order of the validation loaders.
        num_steps: Optimizer steps of the run.
        ledger: What the run reads, set by `setup`.
    """

    row_len: int
    sources: Sequence[Any]
    multiple = 1  # widths of batches are rounded up to one of it
    validation_sources: Sequence[Source]
    num_steps: int
    ledger: Ledger

    def __init__(self, tokenizer_dir: str, num_workers: int, seed: int, epochs: float | None, val_share: float) -> None:
        """Checks the arguments."""
        super().__init__()
        if epochs is not None and not 0 < epochs < float("inf"):
            raise ValueError(f"epochs ({epochs}) must be positive")
        if not 0 <= val_share < 1:
            raise ValueError(f"val_share ({val_share}) must be at least 0 and below 1")
        for name, number in (("num_workers", num_workers), ("seed", seed)):
            if number < 0:
                raise ValueError(f"{name} ({number}) must not be negative")
        self.tokenizer = load_tokenizer(tokenizer_dir)
        self.num_workers, self.seed, self.epochs, self.val_share = num_workers, seed, epochs, val_share
        # of each source by name; opening one hashes its files, which is done once a process
        self._opened: dict[str, list[Any]] = {}

    @abstractmethod
    def _open(self, source: Any) -> list[Any]:
        """The store of a source, made if need be, and that of its validation files if it has any."""

    def _stores(self, source: Source) -> list[Any]:
        if source.name not in self._opened:
            self._opened[source.name] = self._open(source)
        return self._opened[source.name]

    def prepare_data(self) -> None:
        """Tokenises what is not in the cache; in one process of each machine."""
        for source in self.sources:
            self._stores(source)

    def _split_sources(self) -> tuple[list[Any], list[DocumentStream], list[tuple[Any, NDArray[np.int64]]]]:
        """Stores and streams to train on, by source, and the stores and documents of `validation_sources`."""
        train, streams, held_out = [], [], []
        for i, source in enumerate(self.sources):
            stores = self._stores(source)
            share = 0 if source.val_files else self.val_share
            used, kept = split(len(stores[0].lengths), share, (self.seed, i), source.name)
            if source.val_files:
                kept = np.arange(len(stores[1].lengths))
            train.append(stores[0])
            streams.append(DocumentStream(stores[0].lengths, used, (self.seed, i)))
            if len(kept):
                held_out.append((stores[-1], kept))
        return train, streams, held_out

    @property
    def in_step(self) -> int:
        """Micro-batches of an optimizer step, over all ranks."""
        return self._trainer.world_size * self._trainer.accumulate_grad_batches

    @property
    def max_batches(self) -> int | None:
        """Micro-batches that `trainer.max_steps` allows, over all ranks; None without a limit."""
        return self._trainer.max_steps * self.in_step if self._trainer.max_steps > 0 else None

    @property
    def _trainer(self) -> Any:
        assert self.trainer is not None
        return self.trainer

    def _check_trainer(self) -> None:
        """Refuses limits that a planned run does not go with."""
        if self._trainer.max_epochs != 1:
            raise ValueError(
                f"trainer.max_epochs is {self._trainer.max_epochs}, but the whole run is one epoch of the trainer's; "
                "leave it at 1 and say with data.init_args.epochs how often the data is read"
            )
        if self._trainer.accumulate_grad_batches < 1:
            raise ValueError(f"trainer.accumulate_grad_batches is {self._trainer.accumulate_grad_batches}; at least 1")
        if self._trainer.max_steps == 0:
            raise ValueError("trainer.max_steps is 0: nothing would train; give a positive number, or -1 for no limit")
        if self._trainer.limit_train_batches != 1.0:
            raise ValueError(
                f"trainer.limit_train_batches is {self._trainer.limit_train_batches} (fast_dev_run and overfit_batches "
                "set it too): the plan of the run would not hold; set `max_steps` instead"
            )

    def _plan(
        self, rows: Rows, plan: Plan, stores: Sequence[Any], streams: Sequence[DocumentStream], settings: dict[str, Any]
    ) -> None:
        """Takes the micro-batches of the run, as many as optimizer steps divide."""
        self.rows, self.plan = rows, plan
        self.num_steps = len(plan) // self.in_step
        settings |= {
            "stores": [store.folder.name for store in stores],
            "documents": [hashlib.sha256(stream.documents.tobytes()).hexdigest()[:16] for stream in streams],
            "in_step": self.in_step,
            "world_size": self._trainer.world_size,
            "seed": self.seed,
            "tokenizer": self.tokenizer.fingerprint,
        }
        text = json.dumps(settings, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def train_dataloader(self) -> RunLoader:
        """The micro-batches of this rank."""
        trainer = self._trainer
        batches = PlannedBatches(
            self.rows,
            self.plan,
            trainer.global_rank,
            trainer.world_size,
            trainer.accumulate_grad_batches,
            self.multiple,
        )
        return RunLoader(batches, self.num_workers, self.fingerprint)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """A loader for each of `validation_sources`."""
        trainer, loaders = self._trainer, []
        for rows, num_rows, batch_size in self._validation_rows():
            shared = DistributedEvalBatches(
                rows, num_rows, batch_size, trainer.global_rank, trainer.world_size, self.multiple
            )
            loaders.append(load(shared, range(len(shared)), self.num_workers))
        return loaders

    @abstractmethod
    def _validation_rows(self) -> list[tuple[Rows, int, int]]:
        """Rows, their number and rows per batch for each of `validation_sources`."""


def check_sources(sources: Sequence[Source]) -> None:
    """Checks names and weights.

    Raises:
        ValueError: If there is no source, two have one name, or some but not all have a weight.
    """
    if not sources:
        raise ValueError("sources is empty; name at least one")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources: every source needs a name of its own, but they are {names}")
    without = [source.name for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise ValueError(f"sources: give all a weight or none; {', '.join(without)} has none")


def split(num_documents: int, val_share: float, seed: tuple[int, ...], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of the documents to train on, and of those held out: at least one unless `val_share` is 0.

    Raises:
        ValueError: If nothing would be left to train on.
    """
    num_held_out = max(1, round(num_documents * val_share)) if val_share else 0
    if num_documents <= num_held_out:
        raise ValueError(
            f"source {name!r} has {num_documents} document; one more is needed to hold one out (val_share {val_share})"
        )
    order = np.random.default_rng(seed).permutation(num_documents)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
