"""Documents for pretraining, packed into full rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.base import RunData
from data_modules.batches.document_stream import DocumentStream
from data_modules.batches.packing import PackedRows, interleave, interleave_apart
from data_modules.batches.prefix_rows import MIN_ROW_LEN, NUM_ADDED, PrefixRows, prefixed
from data_modules.batches.rows import Rows
from data_modules.sources import TextSource, check_sources, with_validation
from data_modules.stores.token_store import TokenStore
from glmja.errors import MachineError
from glmja.modeling.contracts import retained_languages
from glmja.runs.contracts import Example
from glmja.runs.ledger import Ledger

_CONTEXT_SHARE = 0.5


class PackedPretrainingData(RunData[TextSource, TokenStore]):
    """Packs documents into full rows. Sources alternate in proportion to their weights in tokens.

    For ChatGLM-6B, each document in a row is `[gMASK] <sop>` and the text, or its first tokens as a context before.
    """

    store_type = TokenStore

    def __init__(
        self,
        tokenizer_dir: str,
        sources: list[TextSource],
        row_len: int = 1024,
        batch_size: int = 1,
        tokens: int | None = None,
        epochs: float | None = None,
        isolate_documents: bool = True,
        context_share: float | None = None,
        val_share: float = 0.01,
        cache_dir: str = "~/.cache/glmja",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Checks the arguments; reads no data.

        The run ends at the smallest of `tokens`, `epochs` and `trainer.max_steps`, and after one epoch if none is set.

        Args:
            tokenizer_dir: Folder of the tokenizer; linked to the model folder by `fit`.
            sources: Sources of the documents.
            row_len: Number of tokens in a row. Memory grows linearly with it, the cost of attention quadratically.
            batch_size: Number of rows per device and micro-batch.
            tokens: Maximum number of tokens of the run, over all sources and devices; unlimited by default.
            epochs: Length of the run as a multiple of the tokens of all sources together; need not be an integer. With
                weights, a source may be read more or less often.
            isolate_documents: Whether to keep documents in a row from attending to each other.
            context_share: Only for ChatGLM-6B: share of the documents whose first tokens, up to half of them, are a
                context, which is read in both directions and has no target tokens; 0.5 by default. Validation has
                none.
            val_share: Share of the documents of each source without `val_files` that is held out for validation. At
                least 20 are, or 5 % if these are fewer, or one; 0 holds none out.
            cache_dir: Folder for tokenized sources.
            num_workers: Number of processes that load rows; 0 loads them in the main process.
            seed: Random seed of the held-out documents and of the order of the others.

        Raises:
            ValueError: If an argument is out of range, two sources have the same name, or only some have a weight.
        """
        super().__init__(tokenizer_dir, cache_dir, num_workers, seed, epochs, val_share)
        if row_len < 2 or batch_size < 1:
            raise ValueError(f"`row_len` ({row_len}) must be at least 2 and `batch_size` ({batch_size}) at least 1")
        if tokens is not None and tokens < row_len:
            raise ValueError(f"`tokens` ({tokens}) must be at least `row_len` ({row_len}), a row")
        if context_share is not None and not 0 <= context_share <= 1:
            raise ValueError(f"`context_share` ({context_share}) must be a share from 0 to 1")
        check_sources(sources)
        self.sources, self.validation_sources = sources, [s for s in sources if s.val_files or val_share]
        self.row_sources = sources
        self.row_len, self.batch_size, self.tokens = row_len, batch_size, tokens
        self.isolate_documents, self.context_share = isolate_documents, context_share

    def first_examples(self) -> list[Example]:
        """Returns the first example of each source; raises as `setup`."""
        self._check_contexts()
        return super().first_examples()

    def _check_contexts(self) -> None:
        """Checks that the settings fit a model with contexts, or one without."""
        if not self.tokenizer.has_contexts:
            if self.context_share is not None:
                raise ValueError(
                    f"`context_share` is {self.context_share}, but only documents of ChatGLM-6B have a context; "
                    "remove it"
                )
        elif not self.isolate_documents:
            raise ValueError(
                "`isolate_documents` is false, but the contexts of ChatGLM-6B's documents isolate them; set it to true"
            )
        elif self.row_len < MIN_ROW_LEN:
            raise ValueError(f"`row_len` ({self.row_len}) must be at least {MIN_ROW_LEN} for ChatGLM-6B")

    @property
    def _stretch(self) -> int:
        """Number of tokens of a stream that a row is cut from."""
        return self.row_len - (NUM_ADDED if self.tokenizer.has_contexts else 0)

    def _rows(
        self,
        stores: Sequence[TokenStore],
        streams: Sequence[DocumentStream],
        order: tuple[NDArray[np.int64], NDArray[np.int64]],
        **others: Any,
    ) -> PackedRows:
        """Returns the rows of streams; see `PackedRows`."""
        if not self.tokenizer.has_contexts:
            return PackedRows(stores, streams, order, self.row_len, self.isolate_documents, **others)
        share = _CONTEXT_SHARE if self.context_share is None else self.context_share
        return PrefixRows(stores, streams, order, self.row_len, self.tokenizer, share, **others)

    def _stream(self, stream: DocumentStream) -> DocumentStream:
        """Returns a stream of stored documents as rows are cut from it."""
        return prefixed(stream) if self.tokenizer.has_contexts else stream

    def _create_stores(self, source: TextSource) -> list[TokenStore]:
        self._check_contexts()
        return [TokenStore.of(part, self.tokenizer, self.cache_dir) for part in with_validation(source)]

    def setup(self, stage: str) -> None:
        """Opens the stores, splits their documents, and plans the run.

        Raises:
            MachineError: If the run has more rows than can be planned.
            ValueError: If a source has too little text, or the run would have no optimizer step.
        """
        self._check_trainer()
        self._open_stores()
        stores, streams = self._split_sources()
        streams = [self._stream(stream) for stream in streams]
        for source, stream in zip(self.sources, streams, strict=True):
            if stream.tokens_per_pass < self._stretch:
                raise ValueError(
                    f"source {source.name!r} holds fewer than `row_len` ({self.row_len}) tokens to train on; give more "
                    "text or shorter rows"
                )
        shares, num_rows = self._budget([stream.tokens_per_pass for stream in streams])
        rows_in_step = self.batch_size * self.in_step
        num_planned = num_rows - num_rows % rows_in_step
        if num_planned == 0:
            raise ValueError(
                f"the run has {num_rows} rows, fewer than one optimizer step takes ({rows_in_step}: `batch_size` "
                f"{self.batch_size} × {self.in_step} micro-batches of all ranks); give more text, tokens or epochs"
            )
        try:
            order, numbers = self._order(shares, num_planned), np.arange(num_planned)
        except MemoryError as error:
            raise MachineError(
                f"the plan of a run of {num_planned:,} rows does not fit into memory; lower `max_steps`, `tokens` or "
                "`epochs`"
            ) from error
        rows = self._rows(stores, streams, order)
        settings = {
            "shares": list(shares),
            "row_len": self.row_len,
            "batch_size": self.batch_size,
            "isolate": self.isolate_documents,
            **({"contexts": rows.context_share} if isinstance(rows, PrefixRows) else {}),
            **({"retained": sorted(retained)} if (retained := self._retained()) else {}),
        }
        self._plan(rows, numbers.reshape(-1, self.batch_size), stores, streams, settings)
        self.ledger = self._count(stores, streams, rows, shares, num_rows - num_planned)

    def _order(self, shares: Sequence[float], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns source and number of each row of the run.

        Rows with a teacher take longer, so all ranks have them in the same micro-batches.
        """
        retained = self._retained()
        apart = [i for i, source in enumerate(self.sources) if source.lang in retained]
        if not apart:
            return interleave(shares, num_rows)
        return interleave_apart(shares, apart, num_rows, self.plan_ranks() * self.batch_size)

    def _retained(self) -> Collection[str]:
        """Returns the languages whose rows have a teacher, as the training module has them."""
        return retained_languages(getattr(self._trainer, "lightning_module", None))

    def _budget(self, tokens: Sequence[int]) -> tuple[list[float], int]:
        """Returns the shares of the sources, relative to each other, and the number of rows of the run."""
        # without weights, all sources complete a pass at the same time
        shares = [float(count // self._stretch) for count in tokens]
        num_rows = int((self.epochs or 1) * sum(shares))
        if self.sources[0].weight is not None:
            shares = [source.weight or 0.0 for source in self.sources]
            num_rows = int((self.epochs or 1) * sum(tokens)) // self._stretch
        limits = [] if self.epochs is None else [num_rows]
        if self.tokens is not None:
            limits.append(self.tokens // self.row_len)
        if self.max_batches is not None:
            limits.append(self.max_batches * self.batch_size)
        return shares, min(limits, default=num_rows)

    def _count(
        self,
        stores: Sequence[TokenStore],
        streams: Sequence[DocumentStream],
        rows: PackedRows,
        shares: Sequence[float],
        trimmed: int,
    ) -> Ledger:
        """Returns the ledger; asserts that its sums agree."""
        entries = []
        rows_of = np.bincount(rows.sources, minlength=len(stores))
        parts = zip(self.sources, stores, streams, rows_of, shares, strict=True)
        for number, (source, store, stream, num_rows, share) in enumerate(parts):
            tokens, read = stream.tokens_per_pass, int(num_rows) * self._stretch
            unread = -read % tokens
            assert (read + unread) % tokens == 0
            entries.append({
                "source": source.name, "lang": source.lang, "documents": len(stream.documents), "tokens": tokens,
                **self._left_out(number), "blank": store.num_blank, "repeated": store.num_repeated,
                "rows": int(num_rows), "tokens_read": read, "passes": read / tokens, "unread_of_last_pass": unread,
                "share": num_rows / len(rows), "share_wanted": share / sum(shares),
            })  # fmt: skip
        assert sum(entry["rows"] for entry in entries) == len(rows)
        facts = {"rows": len(rows), "row_len": self.row_len, "tokens": len(rows) * self._stretch,
                 "ranks_x_accumulation": self.in_step, "optimizer_steps": self.num_steps,
                 "rows_left_over": trimmed}  # fmt: skip
        return Ledger("what the run reads", entries, facts)

    def _validation_rows(self) -> list[tuple[Rows, int, int]]:
        loaders: list[tuple[Rows, int, int]] = []
        numbers = [i for i, source in enumerate(self.sources) if source in self.validation_sources]
        for number, (store, documents) in zip(numbers, self.held_out, strict=True):
            stream = self._stream(DocumentStream(store.lengths, documents))
            num_rows = -(-stream.tokens_per_pass // self._stretch)
            order = np.zeros(num_rows, dtype=np.int64), np.arange(num_rows)
            ends = [stream.tokens_per_pass]
            rows = self._rows([store], [stream], order, num_tokens=ends, first_source=number)
            loaders.append((rows, num_rows, self.batch_size))
        return loaders
