"""Conversations for supervised fine-tuning, in micro-batches of similar lengths or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_modules.base import RunData, check_sources
from data_modules.batches.batching import MicroBatch, group_by_length, pack_whole, shuffle_groups, split_to_multiple
from data_modules.batches.conversations import ConversationRows
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.rows import Rows
from data_modules.sources import ChatSource
from data_modules.stores.chat_store import ChatStore
from glmja.runs.ledger import Count, Ledger


class PaddedSFTData(RunData[ChatSource, ChatStore]):
    """Batches conversations so that hardly anything is padding."""

    multiple = 8  # tensor cores
    store_type = ChatStore

    def __init__(
        self,
        tokenizer_dir: str,
        sources: list[ChatSource],
        row_len: int = 1024,
        tokens_per_batch: int = 4096,
        packing: bool = False,
        epochs: float | None = None,
        max_bad_share: float = 0.01,
        val_share: float = 0.01,
        cache_dir: str = "~/.cache/glmja",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Checks the arguments; nothing is read.

        The run is as long as the shorter of `epochs` and `trainer.max_steps`, one epoch if neither is given.

        Args:
            tokenizer_dir: Folder of the tokenizer; linked to the model's.
            sources: Where the conversations come from.
            row_len: Tokens of the longest conversation; a longer one loses its oldest turns.
            tokens_per_batch: Most tokens per device and micro-batch, padding included.
            packing: Whether rows hold several whole conversations, which do not attend to each other.
            epochs: Length of the run in tokens of all sources together. With weights, sources are read more or less
                often than that.
            max_bad_share: Share of a source's conversations that may be dropped because nothing can be learnt from
                them; above it, the run does not start.
            val_share: Share of the conversations, at least one, that is held out for validation of each source
                without `val_files`; 0 holds nothing out.
            cache_dir: Where tokenised sources are kept.
            num_workers: Processes that load rows; 0 loads them in the main process.
            seed: Of the held-out conversations and of the order of the others.

        Raises:
            OSError: If a file does not exist.
            ValueError: If an argument is out of its range, two sources have one name, or only some have a weight.
        """
        super().__init__(tokenizer_dir, cache_dir, num_workers, seed, epochs, val_share)
        if row_len < 8 or tokens_per_batch < row_len + -row_len % self.multiple:
            raise ValueError(
                f"tokens_per_batch ({tokens_per_batch}) must be at least row_len ({row_len}, rounded up to a multiple "
                f"of {self.multiple}), and that at least 8"
            )
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share ({max_bad_share}) must be a share from 0 to 1")
        check_sources(sources)
        for source in sources:
            source.check_files()
        self.sources, self.validation_sources = sources, [s for s in sources if s.val_files or val_share]
        self.row_len, self.tokens_per_batch, self.packing = row_len, tokens_per_batch, packing
        self.max_bad_share = max_bad_share

    def _create_stores(self, source: ChatSource) -> list[ChatStore]:
        parts = [source]
        if source.val_files:
            parts.append(replace(source, files=source.val_files, val_files=[]))
        return [ChatStore.of(part, self.tokenizer, self.row_len, self.cache_dir) for part in parts]

    def setup(self, stage: str) -> None:
        """Opens the stores, splits their conversations and plans the run.

        Raises:
            ValueError: If a source has too few conversations, or too many from which nothing can be learnt.
        """
        self._check_trainer()
        self._open_stores()
        for source in self.sources:
            for store in self._stores[source.name]:
                store.check_dropped(source.name, self.max_bad_share)
        stores, streams, self.held_out = self._split_sources()
        quotas = self._quotas([stream.tokens_per_pass for stream in streams])
        members: list[NDArray[np.int64]] = []  # (source, conversation) for each conversation of the run, by epoch
        batches: list[MicroBatch] = []
        for epoch in range(self._num_passes()):
            chosen = self._choose(streams, quotas, epoch)
            numbers = self._batches_of(stores, chosen, epoch)
            if self.epochs is not None:
                # a part of the last epoch, in whole optimizer steps: a longer run begins with the shorter one
                num_steps = int(min(1.0, self.epochs - epoch) * len(numbers)) // self.in_step
                numbers = numbers[: max(num_steps, int(epoch == 0)) * self.in_step]
            offset = sum(len(part) for part in members)
            batches += [[row + offset for row in batch] for batch in numbers]
            members.append(chosen)
            if self.max_batches is not None and len(batches) >= self.max_batches:
                break
        planned = batches[: self.max_batches]
        rows = ConversationRows(stores, np.concatenate(members), [row for batch in planned for row in batch])
        ends = np.cumsum([len(batch) for batch in planned])
        settings = {
            "quotas": quotas,
            "row_len": self.row_len,
            "tokens": self.tokens_per_batch,
            "packing": self.packing,
        }
        self._plan(rows, np.split(np.arange(len(rows)), ends[:-1]), stores, streams, settings)
        self.ledger = self._count(stores, streams, rows, quotas)

    def _quotas(self, tokens: Sequence[int]) -> list[int]:
        """Tokens an epoch of each source."""
        if self.sources[0].weight is None:
            return list(tokens)
        weights = np.array([source.weight for source in self.sources], dtype=np.float64)
        return [int(share * sum(tokens)) for share in weights / weights.sum()]

    def _num_passes(self) -> int:
        """Epochs begun at most; without a number of epochs, `trainer.max_steps` ends the run."""
        if self.epochs is not None:
            return int(np.ceil(self.epochs))
        return 1 if self.max_batches is None else self.max_batches

    def _choose(self, streams: Sequence[DocumentStream], quotas: Sequence[int], epoch: int) -> NDArray[np.int64]:
        """The conversations of an epoch as (source, conversation), (n, 2)."""
        chosen = []
        for i, (stream, quota) in enumerate(zip(streams, quotas, strict=True)):
            documents = stream.starting_in(epoch * quota, (epoch + 1) * quota)
            chosen.append(np.stack([np.full(len(documents), i), documents], axis=1))
        return np.concatenate(chosen)

    def _batches_of(self, stores: Sequence[ChatStore], chosen: NDArray[np.int64], epoch: int) -> list[MicroBatch]:
        lengths = np.concatenate([store.lengths[chosen[chosen[:, 0] == i, 1]] for i, store in enumerate(stores)])
        rng = np.random.default_rng([self.seed, epoch, len(stores)])
        if self.packing:
            batches = pack_whole(lengths, self.tokens_per_batch, self.row_len, rng)
        else:
            batches = group_by_length(lengths, self.tokens_per_batch, self.multiple, rng)
        return shuffle_groups(split_to_multiple(batches, self.in_step), self._trainer.world_size, rng)

    def _count(
        self,
        stores: Sequence[ChatStore],
        streams: Sequence[DocumentStream],
        rows: ConversationRows,
        quotas: Sequence[int],
    ) -> Ledger:
        """The ledger, whose sums are asserted."""
        entries: list[dict[str, Count]] = []
        read = rows.members[np.concatenate(rows.conversations)]
        widest = np.maximum.reduceat(rows.lengths, [numbers[0] for numbers in self.plan])
        computed = int(sum(len(n) * w for n, w in zip(self.plan, widest + -widest % self.multiple, strict=True)))
        for i, (source, store, stream, quota) in enumerate(zip(self.sources, stores, streams, quotas, strict=True)):
            mine = read[read[:, 0] == i, 1]
            tokens = int(store.lengths[mine].sum())
            entries.append({
                "source": source.name, "lang": source.lang, "conversations": len(stream.documents),
                "tokens": stream.tokens_per_pass, "held_out": len(store.lengths) - len(stream.documents),
                "dropped": store.num_dropped, "shortened": store.num_shortened, "read": len(mine),
                "tokens_read": tokens, "target_tokens": int(store.num_target_tokens[mine].sum()),
                "passes": tokens / stream.tokens_per_pass, "share_wanted": quota / sum(quotas),
            })  # fmt: skip
        total, targets = (sum(int(e[key]) for e in entries) for key in ("tokens_read", "target_tokens"))
        assert total == rows.lengths.sum() and len(read) == sum(int(entry["read"]) for entry in entries)
        facts = {"rows": len(rows), "micro_batches": len(self.plan), "tokens": total, "fill": total / computed,
                 "target_share": targets / total, "ranks_x_accumulation": self.in_step,
                 "optimizer_steps": self.num_steps}  # fmt: skip
        return Ledger("what the run reads", entries, facts)

    def _validation_rows(self) -> list[tuple[Rows, int, int]]:
        loaders: list[tuple[Rows, int, int]] = []
        for store, held_out in self.held_out:
            members = np.stack([np.zeros(len(held_out), dtype=np.int64), held_out], axis=1)
            order = np.argsort(store.lengths[held_out], kind="stable")
            rows = ConversationRows([store], members, list(order[:, None]))
            loaders.append((rows, len(held_out), max(1, self.tokens_per_batch // self.row_len)))
        return loaders
