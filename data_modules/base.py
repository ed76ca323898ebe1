"""The common part of the data modules: the length of a run, its loaders and its stores."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from lightning import LightningDataModule, Trainer
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.loader import DistributedEvalBatches, Plan, PlannedBatches, RunLoader, load
from data_modules.batches.rows import Rows
from data_modules.held_out import Split, leave_out_held, split_source, warn_of_few
from data_modules.preview import first_examples
from data_modules.sources import ChatSource, TextSource, check_files
from data_modules.stores.store import Store
from glmja.families.recognition import load_tokenizer
from glmja.modeling.batch import Batch
from glmja.runs.contracts import Example, TrainingData
from glmja.runs.identity import RunIdentity
from glmja.runs.ledger import Ledger
from glmja.tokenization.tokenizer import GLMTokenizer

AnySource = TypeVar("AnySource", TextSource, ChatSource)
AnyStore = TypeVar("AnyStore", bound=Store)


class RunData(LightningDataModule, TrainingData, Generic[AnySource, AnyStore]):
    """Plans all micro-batches of a run before the first step.

    Attributes:
        row_len: Largest number of tokens in a row.
        multiple: The width of a batch is rounded up to a multiple of this number.
        sources: The sources to train on.
        validation_sources: The sources in the order of the validation loaders.
        row_sources: The sources as batches number them; None if a row may hold several.
        num_steps: Number of optimizer steps of the run; set by `setup`.
        ledger: What the run reads; set by `setup`.
        splits: Which records of each source are trained on, and which are not; set by `setup`.
        held_out: Store and numbers of the records to validate on, for each of `validation_sources`; set by `setup`.
        settings: What the fingerprint depends on, by name; None before `setup`.
        saved: Identity of the run that saved the checkpoint to resume from; None if there is none.
    """

    row_len: int
    multiple = 1
    sources: Sequence[AnySource]
    validation_sources: Sequence[AnySource]
    row_sources: Sequence[AnySource] | None = None
    num_steps: int
    ledger: Ledger
    splits: list[Split]
    held_out: list[tuple[AnyStore, NDArray[np.int64]]]
    store_type: type[AnyStore]

    def __init__(
        self, tokenizer_dir: str, cache_dir: str, num_workers: int, seed: int, epochs: float | None, val_share: float
    ) -> None:
        """Checks the arguments."""
        super().__init__()
        if epochs is not None and not 0 < epochs < float("inf"):
            raise ValueError(f"`epochs` ({epochs}) must be positive")
        if not 0 <= val_share < 1:
            raise ValueError(f"`val_share` ({val_share}) must be at least 0 and below 1")
        for name, number in (("num_workers", num_workers), ("seed", seed)):
            if number < 0:
                raise ValueError(f"`{name}` ({number}) must not be negative")
        self.tokenizer_dir, self.cache_dir, self.num_workers = tokenizer_dir, cache_dir, num_workers
        self.seed, self.epochs, self.val_share = seed, epochs, val_share
        self.fingerprint: str | None = None
        self.settings: Mapping[str, object] | None = None
        self.saved: RunIdentity | None = None
        self._has_checked = False
        self._stores: dict[str, list[AnyStore]] = {}  # stores of each source, by its name

    @cached_property
    def tokenizer(self) -> GLMTokenizer:
        """The tokenizer in `tokenizer_dir`."""
        return load_tokenizer(self.tokenizer_dir)

    def use_tokenizer(self, tokenizer: GLMTokenizer) -> None:
        """Sets the tokenizer, so that `tokenizer_dir` is not read again.

        Args:
            tokenizer: The tokenizer in `tokenizer_dir`.
        """
        self.tokenizer = tokenizer

    def check_files(self) -> None:
        """Reads the first record of each file of all sources; see `data_modules.sources.check_files`."""
        check_files(self.sources)
        self._has_checked = True

    def first_examples(self) -> list[Example]:
        """Returns the first example of each source, without tokenizing the rest."""
        return first_examples(self.sources, self.tokenizer, self.row_len)

    @abstractmethod
    def _create_stores(self, source: AnySource) -> list[AnyStore]:
        """Returns the store of a source, created if there is none, and that of its validation files, if any."""

    def prepare_data(self) -> None:
        """Tokenizes the sources that are not in the cache. Lightning calls this in one process per machine.

        Reads the first record of every file before it tokenizes the first file. Hashes all source files and their
        stores, since the name of a store is a hash of its source.

        Raises:
            ValueError: If a file cannot be read, or its records are unusable.
        """
        missing = [source for source in self.sources if source.name not in self._stores]
        if not self._has_checked:
            check_files(missing)
        for source in missing:
            self._stores[source.name] = self._create_stores(source)

    def _open_stores(self) -> None:
        """Opens the stores in every process. Only those that ran `prepare_data` have hashed them."""
        trainer = self._trainer
        if trainer.global_rank == 0:
            self.prepare_data()
        keys = {name: [(store.key, store.former_key) for store in stores] for name, stores in self._stores.items()}
        if trainer.world_size > 1:
            keys = trainer.strategy.broadcast(keys)
        for name in keys.keys() - self._stores.keys():
            self._stores[name] = [self.store_type.open(self.cache_dir, key, verify=False) for key, _ in keys[name]]
            for store, (_, former_key) in zip(self._stores[name], keys[name], strict=True):
                store.former_key = former_key

    def _split_sources(self) -> tuple[list[AnyStore], list[DocumentStream]]:
        """Splits the records of the stores, once these are open; sets `splits` and `held_out`.

        Returns:
            For each source, the store and the stream to train on.
        """
        parts = [
            split_source(source.name, self._stores[source.name], self.val_share, (self.seed, i))
            for i, source in enumerate(self.sources)
        ]
        self.splits = leave_out_held(parts)
        warn_of_few(self.splits, [source.lang for source in self.sources])
        stores = [self._stores[source.name] for source in self.sources]
        self.held_out = [(s[-1], part.held) for s, part in zip(stores, self.splits, strict=True) if len(part.held)]
        streams = [DocumentStream(part.store.lengths, part.used, (self.seed, i)) for i, part in enumerate(self.splits)]
        return [of_source[0] for of_source in stores], streams

    def _left_out(self, number: int) -> dict[str, int]:
        """Returns the counts of a source's records that are not trained on because they, or equal ones, are held out.

        The sources that hold out equal ones are the same for all sources, as a ledger needs it.
        """
        part = self.splits[number]
        names = [name for name in self._stores if any(name in other.repeated for other in self.splits)]
        pairs = {f"held_out_by_{name}": part.repeated.get(name, 0) for name in names}
        return {"held_out": part.num_held, "equal_to_held_out": part.num_left_out, **pairs}

    @property
    def in_step(self) -> int:
        """Number of micro-batches in an optimizer step, over all ranks."""
        return self._trainer.world_size * self._trainer.accumulate_grad_batches

    def plan_ranks(self) -> int:
        """Returns for how many processes the micro-batches are ordered: those of the run at its start."""
        saved = self.saved
        return (saved and (saved.plan_ranks or saved.world_size)) or self._trainer.world_size

    @property
    def max_batches(self) -> int | None:
        """Largest number of micro-batches within `trainer.max_steps`, over all ranks; None without a limit."""
        return self._trainer.max_steps * self.in_step if self._trainer.max_steps > 0 else None

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def _check_trainer(self) -> None:
        """Checks that no setting of the trainer contradicts the plan of the run."""
        trainer = self._trainer
        if trainer.max_epochs != 1:
            raise ValueError(
                f"trainer.max_epochs is {trainer.max_epochs}, but the whole run is one epoch of the trainer; leave it "
                "at 1 and set `epochs` to the number of passes over the data"
            )
        if trainer.accumulate_grad_batches < 1:
            raise ValueError(f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}; at least 1")
        if trainer.max_steps == 0:
            raise ValueError("trainer.max_steps is 0: nothing would train; set a positive number, or -1 for no limit")

    def _plan(
        self,
        rows: Rows,
        plan: Plan,
        stores: Sequence[AnyStore],
        streams: Sequence[DocumentStream],
        settings: Mapping[str, object],
    ) -> None:
        """Sets the micro-batches of the run.

        Args:
            rows: All rows.
            plan: Numbers of the rows of each micro-batch; as many as complete optimizer steps take.
            stores: Store of each source.
            streams: Stream of each source.
            settings: Arguments of the data module that the rows depend on.
        """
        self.rows, self.plan = rows, plan
        self.num_steps = len(plan) // self.in_step
        documents = [hashlib.sha256(stream.documents.tobytes()).hexdigest()[:16] for stream in streams]
        hashed = {
            **settings,
            "documents": documents,
            "in_step": self.in_step,
            "world_size": self.plan_ranks(),
            "seed": self.seed,
            "tokenizer": self.tokenizer.fingerprint,
        }
        former = _hash({**hashed, "stores": [store.former_key or store.key for store in stores]})
        self.fingerprint = _hash({**hashed, "stores": [store.key for store in stores]})
        if self.saved is not None and self.saved.data == former:  # an earlier version saved the checkpoint
            self.fingerprint = former
        self.settings = {
            **{name: value for name, value in settings.items() if name not in ("shares", "quotas")},
            "sources": [source.name for source in self.sources],
            **{f"weight of {source.name}": source.weight for source in self.sources if source.weight is not None},
            **{f"content of {source.name}": store.key for source, store in zip(self.sources, stores, strict=True)},
            **{f"held out of {source.name}": docs for source, docs in zip(self.sources, documents, strict=True)},
            "accumulate_grad_batches": self._trainer.accumulate_grad_batches,
            "val_share": self.val_share,
            "seed": self.seed,
        }

    def train_dataloader(self) -> RunLoader:
        """Returns the loader of the micro-batches of this rank."""
        assert self.fingerprint is not None
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
        """Returns a loader for each of `validation_sources`."""
        trainer, loaders = self._trainer, []
        for rows, num_rows, batch_size in self._validation_rows():
            shared = DistributedEvalBatches(
                rows, num_rows, batch_size, trainer.global_rank, trainer.world_size, self.multiple
            )
            loaders.append(load(shared, range(len(shared)), self.num_workers))
        return loaders

    @abstractmethod
    def _validation_rows(self) -> list[tuple[Rows, int, int]]:
        """Returns rows, number of rows and rows per batch for each of `validation_sources`."""


def _hash(settings: Mapping[str, object]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
