"""Running text for pretraining, packed into full rows."""

from __future__ import annotations

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.packing import EpochSampler, PackedRows, RunRows, collate
from data_modules.sources import TextSource
from data_modules.token_store import TokenStore
from glmja.batch import Batch
from glmja.corpus import check_paths
from glmja.tokenizer import GLMTokenizer


class PackedPretrainingData(LightningDataModule):
    """Packs documents into full rows.

    Attributes:
        validation_sources: The sources in the order of the validation loaders.
    """

    def __init__(
        self,
        tokenizer_dir: str,
        sources: list[TextSource],
        row_len: int = 1024,
        batch_size: int = 1,
        val_share: float = 0.01,
        cache_dir: str = "~/.cache/glmja",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Checks the arguments; nothing is read.

        Args:
            tokenizer_dir: Folder of the tokenizer; linked to the model's.
            sources: Where the text comes from.
            row_len: Tokens a row. Memory grows linearly with it, attention quadratically.
            batch_size: Rows per device and micro-batch.
            val_share: Share of each source's documents, at least one, that is held out for validation.
            cache_dir: Where tokenised sources are kept.
            num_workers: Processes that load rows; 0 loads them in the main process.
            seed: Of the held-out documents and of the order of the others.

        Raises:
            OSError: If a file does not exist.
            ValueError: If an argument is out of its range, or two sources have one name.
        """
        super().__init__()
        if row_len < 2 or batch_size < 1:
            raise ValueError(f"row_len ({row_len}) must be at least 2 and batch_size ({batch_size}) at least 1")
        if not 0 < val_share < 1:
            raise ValueError(f"val_share ({val_share}) must lie between 0 and 1")
        if not sources:
            raise ValueError("sources is empty; name at least one source of text")
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: every source needs a name of its own, but they are {names}")
        for source in sources:
            check_paths(source.files)
        self.tokenizer = GLMTokenizer.load(tokenizer_dir)
        self.validation_sources = sources
        self.row_len, self.batch_size, self.val_share = row_len, batch_size, val_share
        self.cache_dir, self.num_workers, self.seed = cache_dir, num_workers, seed

    def prepare_data(self) -> None:
        """Tokenises what is not in the cache; in one process of each machine."""
        for source in self.validation_sources:
            TokenStore.of(source, self.tokenizer, self.cache_dir)

    def setup(self, stage: str) -> None:
        """Opens the stores and splits their documents.

        Raises:
            ValueError: If a source has one document only, or its training text does not fill a row.
        """
        stores = [TokenStore.of(source, self.tokenizer, self.cache_dir) for source in self.validation_sources]
        split = [self._split(store, i) for i, store in enumerate(stores)]
        self.train_rows = RunRows(stores, [train for train, _ in split], self.row_len, self.seed)
        self.val_rows = [
            PackedRows(store, held_out, self.row_len, keep_tail=True)
            for store, (_, held_out) in zip(stores, split, strict=True)
        ]
        for source, num_rows in zip(self.validation_sources, self.train_rows.rows_per_source, strict=True):
            if num_rows == 0:
                raise ValueError(
                    f"source {source.name!r} holds fewer than row_len ({self.row_len}) tokens to train on; give more "
                    "text or shorter rows"
                )

    def _split(self, store: TokenStore, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Documents to train on, and those held out."""
        num_documents = len(store.lengths)
        if num_documents < 2:
            name = self.validation_sources[number].name
            raise ValueError(f"source {name!r} has {num_documents} document; one more is needed to hold one out")
        order = np.random.default_rng([self.seed, number]).permutation(num_documents)
        num_held_out = max(1, round(num_documents * self.val_share))
        return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Rows of the current epoch."""
        return DataLoader(
            self.train_rows,
            batch_size=self.batch_size,
            sampler=EpochSampler(len(self.train_rows)),
            collate_fn=collate,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """A loader for each of `validation_sources`."""
        return [
            DataLoader(rows, batch_size=self.batch_size, collate_fn=collate, num_workers=self.num_workers)
            for rows in self.val_rows
        ]
