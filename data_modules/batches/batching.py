"""Groups conversations into micro-batches with little padding: by length, or packed.

The size of a micro-batch is a number of tokens, not of conversations, so that short conversations still use the device
fully. No conversation is dropped to reach a number of micro-batches that ranks and accumulation divide: large
micro-batches are halved instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.batches.bin_packing import best_fit_decreasing

Numbers = NDArray[np.int64]
Row = Numbers  # numbers of the conversations in a row
MicroBatch = list[Row]


def group_by_length(lengths: Numbers, tokens: int, multiple: int, rng: np.random.Generator) -> list[MicroBatch]:
    """Groups conversations of similar lengths, one per row.

    Args:
        lengths: Number of tokens of each conversation.
        tokens: Maximum number of tokens of a micro-batch, including padding.
        multiple: Widths are rounded up to a multiple of this number.
        rng: Random generator of the order among equal widths.

    Returns:
        Micro-batches, widest first.
    """
    widths = -(-lengths // multiple) * multiple
    order = np.lexsort((rng.random(len(lengths)), -widths))
    batches, begin = [], 0
    while begin < len(order):
        end = begin + max(1, tokens // int(widths[order[begin]]))
        batches.append(list(order[begin:end, None]))
        begin = end
    return batches


def pack_whole(lengths: Numbers, tokens: int, row_len: int, rng: np.random.Generator) -> list[MicroBatch]:
    """Packs several whole conversations into each row.

    Args:
        lengths: Number of tokens of each conversation, at most `row_len`.
        tokens: Maximum number of tokens of a micro-batch.
        row_len: Maximum number of tokens of a row.
        rng: Random generator of the order of rows, and of which conversations of equal length share a row.

    Returns:
        Micro-batches.
    """
    order = rng.permutation(len(lengths))
    bins = best_fit_decreasing(lengths[order], row_len)
    rows = [order[bins[int(i)]] for i in rng.permutation(len(bins))]
    size = tokens // row_len
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def split_to_multiple(batches: Sequence[MicroBatch], multiple: int) -> list[MicroBatch]:
    """Halves the largest micro-batches until their number is a multiple.

    Args:
        batches: Micro-batches; those that are not halved keep their order.
        multiple: Number of ranks times number of micro-batches of an optimizer step.

    Returns:
        Micro-batches, a multiple of that number.

    Raises:
        ValueError: If there are fewer conversations than that number.
    """
    num_conversations = sum(len(row) for batch in batches for row in batch)
    if num_conversations < multiple:
        raise ValueError(
            f"{num_conversations} conversations cannot be shared among the {multiple} micro-batches of an optimizer "
            "step (ranks × `accumulate_grad_batches`); give more, or use fewer ranks"
        )
    parts: dict[tuple[int, ...], MicroBatch] = {(i,): batch for i, batch in enumerate(batches)}
    largest: list[tuple[int, tuple[int, ...]]] = [
        (-sum(len(row) for row in batch), place) for place, batch in parts.items()
    ]
    heapq.heapify(largest)
    for _ in range(-len(batches) % multiple):
        _, place = heapq.heappop(largest)
        for i, half in enumerate(_halves(parts.pop(place))):
            parts[(*place, i)] = half
            heapq.heappush(largest, (-sum(len(row) for row in half), (*place, i)))
    return [parts[place] for place in sorted(parts)]


def _halves(batch: MicroBatch) -> tuple[MicroBatch, MicroBatch]:
    if len(batch) > 1:
        return batch[: len(batch) // 2], batch[len(batch) // 2 :]
    (row,) = batch
    return [row[: len(row) // 2]], [row[len(row) // 2 :]]


def shuffle_groups(batches: Sequence[MicroBatch], world_size: int, rng: np.random.Generator) -> list[MicroBatch]:
    """Shuffles micro-batches in groups of `world_size`, which the ranks process at the same time.

    The micro-batches of a group have similar lengths, so that no rank waits long for another.
    """
    groups = rng.permutation(len(batches) // world_size)
    return [batches[int(group) * world_size + rank] for group in groups for rank in range(world_size)]
