"""The training settings that `benchmarks.training.gpu` compares, and their batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from benchmarks.data.bin_packing import synthetic_lengths
from data_modules.batches.batching import group_by_length, pack_whole, shuffle_groups
from data_modules.batches.rows import Fragment, Row, collate, pack
from glmja.modeling.adapters import Embeddings
from glmja.modeling.attention import AttentionName
from glmja.modeling.batch import Batch


@dataclass(frozen=True)
class Case:
    """Settings of one training.

    Attributes:
        tokens: Tokens per micro-batch.
        isolate: Whether attention is masked between the documents of a row.
    """

    name: str
    trainer: Literal["glmja", "hf"] = "glmja"
    data: Literal["text", "sft padded", "sft packed", "sft 8 rows"] = "text"
    row_len: int = 1024
    tokens: int = 8192
    embeddings: Embeddings = "full"
    attention: AttentionName = "documents"
    checkpointing: bool = False
    compiled: bool = False
    zero2: bool = False
    isolate: bool = True


CASES = (
    Case("text 1k"),
    Case("text 4k", row_len=4096),
    Case("text 4k, 16k tokens", row_len=4096, tokens=16_384),
    Case("text 4k, 32k tokens", row_len=4096, tokens=32_768),
    Case("text 1k, dense mask", attention="sdpa"),
    Case("text 4k, dense mask", row_len=4096, attention="sdpa"),
    Case("text 1k, checkpointing", checkpointing=True),
    Case("text 4k, checkpointing", row_len=4096, checkpointing=True),
    Case("text 1k, compiled", compiled=True),
    Case("text 4k, compiled", row_len=4096, compiled=True),
    Case("text 1k, flex", attention="flex_attention"),
    Case("text 4k, flex", row_len=4096, attention="flex_attention"),
    Case("text 4k, flex, compiled", row_len=4096, attention="flex_attention", compiled=True),
    Case("text 4k, no mask", row_len=4096, isolate=False),
    Case("text 4k, no mask, compiled", row_len=4096, isolate=False, compiled=True),
    Case("text 4k, ZeRO-2", row_len=4096, zero2=True),
    Case("text 1k, one row, checkpointing", tokens=1024, checkpointing=True),
    Case("HF text 1k", trainer="hf", attention="sdpa"),
    Case("HF text 4k", trainer="hf", attention="sdpa", row_len=4096),
    Case("HF text 1k, one row, checkpointing", trainer="hf", attention="sdpa", tokens=1024, checkpointing=True),
    Case("sft padded", data="sft padded", embeddings="frozen"),
    Case("sft packed", data="sft packed", embeddings="frozen"),
    Case("sft packed, dense mask", data="sft packed", embeddings="frozen", attention="sdpa"),
    Case("sft packed, flex", data="sft packed", embeddings="frozen", attention="flex_attention"),
    Case("HF sft 8 rows padded", trainer="hf", attention="sdpa", data="sft 8 rows", embeddings="frozen"),
)


def tiny(case: Case) -> Case:
    """Returns the case with rows and micro-batches of a sixteenth."""
    smaller = {"row_len": case.row_len // 16, "tokens": case.tokens // 16}
    return Case(**{**asdict(case), **smaller})


def make_batches(case: Case, vocab_size: int, num_batches: int) -> list[Batch]:
    """Makes batches of random ids, with typical lengths of documents and conversations."""
    rng = np.random.default_rng(0)

    def fragment(length: int, prompt_share: float) -> Fragment:
        ids = rng.integers(100, vocab_size, length).astype(np.uint32)
        return Fragment(ids, np.arange(length) >= int(length * prompt_share))

    def text_row() -> Row:
        lengths, left = [], case.row_len
        while left:
            lengths.append(min(left, int(rng.lognormal(np.log(400), 1.0)) + 2))
            left -= lengths[-1]
        return pack([fragment(length, 0.0) for length in lengths], case.isolate)

    if case.data == "text":
        num_rows = case.tokens // case.row_len
        return [collate([text_row() for _ in range(num_rows)]) for _ in range(num_batches)]
    lengths = synthetic_lengths(num_batches * max(8, case.tokens // 20), case.row_len, 0)
    if case.data == "sft packed":
        planned = pack_whole(lengths, case.tokens, case.row_len, rng)
    elif case.data == "sft padded":
        planned = shuffle_groups(group_by_length(lengths, case.tokens, 8, rng), 1, rng)
    else:
        planned = [list(rows[:, None]) for rows in np.split(np.arange(len(lengths)), range(8, len(lengths), 8))]
    assert len(planned) >= num_batches
    return [
        collate([pack([fragment(int(lengths[i]), 0.5) for i in row]) for row in batch], 8)
        for batch in planned[:num_batches]
    ]
