"""Conversations for supervised fine-tuning, in micro-batches of similar lengths or packed into rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_modules.base import RunData
from data_modules.batches.batching import MicroBatch, group_by_length, pack_whole, shuffle_groups, split_to_multiple
from data_modules.batches.conversations import ConversationRows
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.rows import Rows
from data_modules.sources import ChatSource, check_sources, with_validation
from data_modules.stores.chat_store import ChatStore
from glmja.runs.ledger import Count, Ledger

MixBy = Literal["tokens", "conversations"]


class PaddedSFTData(RunData[ChatSource, ChatStore]):
    """Batches conversations with little padding, for supervised fine-tuning."""

    multiple = 8  # tensor cores
    store_type = ChatStore

    def __init__(
        self,
        tokenizer_dir: str,
        sources: list[ChatSource],
        row_len: int = 1024,
        tokens_per_batch: int = 4096,
        packing: bool = False,
        mix_by: MixBy = "tokens",
        epochs: float | None = None,
        max_bad_share: float = 0.01,
        val_share: float = 0.01,
        cache_dir: str = "~/.cache/glmja",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Checks the arguments; reads no data yet.

        The run ends after `epochs` or `trainer.max_steps`, whichever is shorter, and after one epoch if neither is set.

        Args:
            tokenizer_dir: Folder of the tokenizer; linked to the folder of the model.
            sources: Sources of the conversations.
            row_len: Maximum number of tokens of a conversation; a longer one loses its oldest turns. If the last turn
                alone is too long, the user's text in it is cut to make room for the answer, down to half of the row.
            tokens_per_batch: Maximum number of tokens per device and micro-batch, padding included.
            packing: Whether a row holds several whole conversations, which do not attend to each other.
            mix_by: What the weights of the sources share out: the `tokens` of an epoch, or its `conversations`, whose
                lengths differ between sources. The ledger shows both shares.
            epochs: Length of the run, as a multiple of the tokens, or with `mix_by: conversations` of the
                conversations, of all sources together. With weights, a single source may be read more or less often
                than that.
            max_bad_share: Maximum share of the records of a source that may be dropped because they have no target
                tokens. If more would be dropped, the run does not start.
            val_share: Share of the conversations of each source without `val_files` that is held out for validation. At
                least 20 are, or 5 % if these are fewer, or one; 0 holds none out.
            cache_dir: Folder for tokenized sources.
            num_workers: Number of processes that load rows; 0 loads them in the main process.
            seed: Seed for choosing the held-out conversations and for shuffling the others.

        Raises:
            ValueError: If an argument is out of range, if two sources have the same name, or if only some have a
                weight.
        """
        super().__init__(tokenizer_dir, cache_dir, num_workers, seed, epochs, val_share)
        if row_len < 8 or tokens_per_batch < row_len + -row_len % self.multiple:
            raise ValueError(
                f"`tokens_per_batch` ({tokens_per_batch}) must be at least `row_len` ({row_len}, rounded up to a "
                f"multiple of {self.multiple}), and that at least 8"
            )
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"`max_bad_share` ({max_bad_share}) must be a share from 0 to 1")
        if mix_by not in get_args(MixBy):
            raise ValueError(f"`mix_by` ({mix_by!r}) must be tokens or conversations")
        check_sources(sources)
        self.sources, self.validation_sources = sources, [s for s in sources if s.val_files or val_share]
        self.row_len, self.tokens_per_batch, self.packing = row_len, tokens_per_batch, packing
        self.max_bad_share, self.mix_by = max_bad_share, mix_by

    def _create_stores(self, source: ChatSource) -> list[ChatStore]:
        return [ChatStore.of(part, self.tokenizer, self.row_len, self.cache_dir) for part in with_validation(source)]

    def setup(self, stage: str) -> None:
        """Opens the stores, splits their conversations and plans the run.

        Raises:
            ValueError: If a source has too few conversations, or too many without target tokens.
        """
        self._check_trainer()
        self._open_stores()
        for source in self.sources:
            for store in self._stores[source.name]:
                store.check_dropped(source.name, self.max_bad_share)
        stores, streams = self._split_sources()
        mixed = [self._mixed(stream) for stream in streams]
        quotas = self._quotas([stream.tokens_per_pass for stream in mixed])
        members, batches = self._plan_epochs(stores, mixed, quotas)
        rows = ConversationRows(stores, members, [row for batch in batches for row in batch], self.tokenizer.positions)
        ends = np.cumsum([len(batch) for batch in batches])
        settings = {
            "quotas": quotas,
            "row_len": self.row_len,
            "tokens": self.tokens_per_batch,
            "packing": self.packing,
            **({} if self.mix_by == "tokens" else {"mix_by": self.mix_by}),  # runs by tokens keep their fingerprint
        }
        self._plan(rows, np.split(np.arange(len(rows)), ends[:-1]), stores, streams, settings)
        self.ledger = self._count(stores, streams, rows, quotas)

    def _mixed(self, stream: DocumentStream) -> DocumentStream:
        """Returns the stream in whose positions an epoch is measured; of conversations, each counts as one."""
        if self.mix_by == "tokens":
            return stream
        return DocumentStream(np.ones_like(stream.lengths), stream.documents, stream.seed)

    def _quotas(self, sizes: Sequence[int]) -> list[int]:
        """Returns how many tokens, or conversations, of each source are read in an epoch.

        Args:
            sizes: Number of tokens, or conversations, that each source has.
        """
        if self.sources[0].weight is None:
            return list(sizes)
        weights = np.array([source.weight for source in self.sources], dtype=np.float64)
        return [int(share * sum(sizes)) for share in weights / weights.sum()]

    def _plan_epochs(
        self, stores: Sequence[ChatStore], streams: Sequence[DocumentStream], quotas: Sequence[int]
    ) -> tuple[NDArray[np.int64], list[MicroBatch]]:
        """Plans the micro-batches of the run, epoch by epoch, so that a longer run begins with a shorter one.

        Returns:
            (source, conversation) of each conversation of the run, (n, 2); and micro-batches of numbers into it.
        """
        members: list[NDArray[np.int64]] = []
        planned: list[MicroBatch] = []
        num_members = 0
        for epoch in range(self._num_passes()):
            chosen = self._choose(streams, quotas, epoch)
            batches = self._whole_steps(self._batches_of(stores, chosen, epoch), epoch)
            planned += [[row + num_members for row in batch] for batch in batches]
            members.append(chosen)
            num_members += len(chosen)
            if self.max_batches is not None and len(planned) >= self.max_batches:
                break
        return np.concatenate(members), planned[: self.max_batches]

    def _num_passes(self) -> int:
        """Returns the maximum number of epochs that are begun; without `epochs`, `trainer.max_steps` ends the run."""
        if self.epochs is not None:
            return int(np.ceil(self.epochs))
        return 1 if self.max_batches is None else self.max_batches

    def _whole_steps(self, batches: list[MicroBatch], epoch: int) -> list[MicroBatch]:
        """Returns the part of an epoch's micro-batches that `epochs` allows, in whole optimizer steps."""
        if self.epochs is None:
            return batches
        num_steps = int(min(1.0, self.epochs - epoch) * len(batches)) // self.in_step
        return batches[: max(num_steps, int(epoch == 0)) * self.in_step]

    def _choose(self, streams: Sequence[DocumentStream], quotas: Sequence[int], epoch: int) -> NDArray[np.int64]:
        """Returns the conversations of an epoch as (source, conversation), (n, 2)."""
        chosen = []
        for i, (stream, quota) in enumerate(zip(streams, quotas, strict=True)):
            documents = stream.starting_in(epoch * quota, (epoch + 1) * quota)
            chosen.append(np.stack([np.full(len(documents), i), documents], axis=1))
        return np.concatenate(chosen)

    def _batches_of(self, stores: Sequence[ChatStore], chosen: NDArray[np.int64], epoch: int) -> list[MicroBatch]:
        """Returns the micro-batches of an epoch, as numbers into `chosen`."""
        lengths = np.concatenate([store.lengths[chosen[chosen[:, 0] == i, 1]] for i, store in enumerate(stores)])
        rng = np.random.default_rng([self.seed, epoch, len(stores)])
        if self.packing:
            batches = pack_whole(lengths, self.tokens_per_batch, self.row_len, rng)
        else:
            batches = group_by_length(lengths, self.tokens_per_batch, self.multiple, rng)
        return shuffle_groups(split_to_multiple(batches, self.in_step), self.plan_ranks(), rng)

    def _count(
        self,
        stores: Sequence[ChatStore],
        streams: Sequence[DocumentStream],
        rows: ConversationRows,
        quotas: Sequence[int],
    ) -> Ledger:
        """Counts the conversations and tokens of each source, and asserts the sums."""
        entries: list[dict[str, Count]] = []
        read = rows.members[np.concatenate(rows.conversations)]
        num_tokens = int(rows.lengths.sum())
        for i, (source, store, stream, quota) in enumerate(zip(self.sources, stores, streams, quotas, strict=True)):
            of_source = read[read[:, 0] == i, 1]
            tokens = int(store.lengths[of_source].sum())
            entries.append({
                "source": source.name, "lang": source.lang, "conversations": len(stream.documents),
                "tokens": stream.tokens_per_pass, **self._left_out(i),
                "dropped": store.num_dropped, "shortened": store.num_shortened, "read": len(of_source),
                "tokens_read": tokens, "target_tokens": int(store.num_target_tokens[of_source].sum()),
                "passes": tokens / stream.tokens_per_pass, "share_of_tokens": tokens / num_tokens,
                "share_of_conversations": len(of_source) / len(read),
                f"{self.mix_by[:-1]}_share_wanted": quota / sum(quotas),
            })  # fmt: skip
        total, targets = (sum(int(e[key]) for e in entries) for key in ("tokens_read", "target_tokens"))
        assert total == num_tokens and len(read) == sum(int(entry["read"]) for entry in entries)
        widths = np.maximum.reduceat(rows.lengths, [numbers[0] for numbers in self.plan])
        widths += -widths % self.multiple
        computed = int(sum(len(numbers) * width for numbers, width in zip(self.plan, widths, strict=True)))
        facts = {"rows": len(rows), "micro_batches": len(self.plan), "tokens": total, "fill": total / computed,
                 "target_share": targets / total, "ranks_x_accumulation": self.in_step,
                 "optimizer_steps": self.num_steps}  # fmt: skip
        return Ledger("what the run reads", entries, facts)

    def _validation_rows(self) -> list[tuple[Rows, int, int]]:
        loaders: list[tuple[Rows, int, int]] = []
        for store, held_out in self.held_out:
            members = np.stack([np.zeros(len(held_out), dtype=np.int64), held_out], axis=1)
            order = np.argsort(store.lengths[held_out], kind="stable")
            rows = ConversationRows([store], members, list(order[:, None]), self.tokenizer.positions)
            loaders.append((rows, len(held_out), max(1, self.tokens_per_batch // self.row_len)))
        return loaders
