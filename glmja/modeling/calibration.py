"""Calibrates the head rows of new pieces on text.

The base reads text spelled by old pieces. Where a new piece will stand, it says how likely the whole spelling is: the
probability of the first subtoken, times that of the rest given the first. The new logit should therefore be below that
of the first subtoken by c = -log P(rest | first subtoken, text before). The head row

    (1 - λ) · row of the first subtoken + λ · mean of all old rows

lowers the logit by λ · g, where g is the gap between the logit of the first subtoken and the mean logit. With the means
of c and g over the occurrences of a piece, λ = c / g. Both are shrunk towards their means over all pieces, since most
pieces are rare, and λ is clamped to [0, 0.9]. The row is a convex combination of old rows whatever λ is.

Dimensions: B rows, T tokens, D width, V old vocabulary, N positions, C positions of a chunk
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.errors import DataError
from glmja.modeling.batch import pad_sequences
from glmja.tokenization.tokenizer import GLMTokenizer

if TYPE_CHECKING:
    # takes seconds and 0.1 GB, and the parser of the command line resolves types of this module
    from transformers import PreTrainedModel

_ROW_LEN = 512
_BATCH_SIZE = 8
_ROWS_SORTED = 64  # rows sorted by length at a time, so that batches have little padding
_CHUNK_LEN = 512
_PRIOR_COUNT = 2.0  # occurrences that the mean over all pieces counts as
_SMALLEST_GAP = 0.5  # nats
_LARGEST_SHARE = 0.9


@dataclass(frozen=True)
class Calibration:
    """Shares of the mean row in the head rows of new pieces.

    Attributes:
        mean_shares: λ of each new piece, from 0 to 0.9.
        occurrences: Number of occurrences of each new piece in the text.
        rest_nats: Mean of c over all occurrences, in nats.
        gap_nats: Mean of g over all occurrences, in nats.
        tokens: Number of tokens that the base read.
        seconds: Time that it took.
    """

    mean_shares: list[float]
    occurrences: list[int]
    rest_nats: float
    gap_nats: float
    tokens: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """Returns the entries of a report."""
        shares = sorted(self.mean_shares)
        return {
            "tokens": self.tokens,
            "pieces_in_the_text": sum(count > 0 for count in self.occurrences),
            "mean_rest_nats": round(self.rest_nats, 4),
            "mean_gap_nats": round(self.gap_nats, 4),
            "smallest_share": round(shares[0], 4),
            "median_share": round(shares[len(shares) // 2], 4),
            "largest_share": round(shares[-1], 4),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class _Row:
    """Old ids of a text, after the prefix.

    Attributes:
        ids: The ids.
        pieces: Number of the new piece, first position and end of each spelling in the row.
    """

    ids: list[int]
    pieces: list[tuple[int, int, int]]


class _Sums:
    """Sums over the occurrences of each piece, in fp64."""

    def __init__(self, num_pieces: int) -> None:
        self.rest, self.gap, self.count = (torch.zeros(num_pieces, dtype=torch.float64) for _ in range(3))

    def mean_shares(self) -> Tensor:
        """Returns λ of each piece."""
        total = self.count.sum()
        rest, gap = (
            (sums + _PRIOR_COUNT * sums.sum() / total) / (self.count + _PRIOR_COUNT) for sums in (self.rest, self.gap)
        )
        return (rest / gap.clamp(min=_SMALLEST_GAP)).clamp(0, _LARGEST_SHARE)


@torch.inference_mode()
def calibrate(
    model: PreTrainedModel,
    tokenizer: GLMTokenizer,
    spelled: Sequence[Sequence[int]],
    documents: Iterable[str],
    num_tokens: int,
    on_tokens: Callable[[int], None] = lambda count: None,
    on_estimate: Callable[[float], None] = lambda seconds: None,
) -> Calibration:
    """Computes the share of the mean row in the head row of each new piece.

    Args:
        model: The base, in eval mode.
        tokenizer: The extended tokenizer.
        spelled: For each new piece, the ids of the old pieces that spell it.
        documents: Text in which new pieces occur; read as far as needed.
        num_tokens: Number of old tokens to read; the text may have fewer.
        on_tokens: Called after each forward pass with the number of tokens that it read.
        on_estimate: Called once, after the first pass, with the seconds that all of them will take.

    Raises:
        DataError: If no new piece occurs in the text.
    """
    num_old, start = len(tokenizer) - len(spelled), time.monotonic()
    rows = _up_to(
        _to_rows(documents, tokenizer, spelled, min(_ROW_LEN, model.config.max_position_embeddings)), num_tokens
    )
    head_VD = model.get_output_embeddings().weight[:num_old]
    sums, mean_D, read = _Sums(len(spelled)), head_VD.mean(0, dtype=torch.float32), 0
    while block := list(islice(rows, _ROWS_SORTED)):
        block.sort(key=lambda row: -len(row.ids))
        for first in range(0, len(block), _BATCH_SIZE):
            batch = block[first : first + _BATCH_SIZE]
            _add(sums, model, head_VD, mean_D, batch, spelled)
            count = sum(len(row.ids) for row in batch)
            if not read:
                on_estimate((time.monotonic() - start) * num_tokens / count)
            read += count
            on_tokens(count)
    if not sums.count.any():
        raise DataError(
            f"no new piece of the tokenizer occurs in the {read:,} tokens of `text` after those of the check"
        )
    total = float(sums.count.sum())
    return Calibration(
        sums.mean_shares().tolist(),
        [int(count) for count in sums.count],
        float(sums.rest.sum()) / total,
        float(sums.gap.sum()) / total,
        read,
        time.monotonic() - start,
    )


def _to_rows(
    documents: Iterable[str], tokenizer: GLMTokenizer, spelled: Sequence[Sequence[int]], row_len: int
) -> Iterator[_Row]:
    """Spells documents by old pieces, in rows that split no new piece."""
    num_old, prefix = len(tokenizer) - len(spelled), tokenizer.prefix_ids
    for document in documents:
        row = _Row([*prefix], [])
        for token_id in tokenizer.encode(document):
            spelling = spelled[token_id - num_old] if token_id >= num_old else [token_id]
            if len(row.ids) + len(spelling) > row_len:
                yield row
                row = _Row([*prefix], [])
            if token_id >= num_old:
                row.pieces.append((token_id - num_old, len(row.ids), len(row.ids) + len(spelling)))
            row.ids.extend(spelling)
        yield row


def _up_to(rows: Iterable[_Row], num_tokens: int) -> Iterator[_Row]:
    read = 0
    for row in rows:
        yield row
        read += len(row.ids)
        if read >= num_tokens:
            return


def _add(
    sums: _Sums,
    model: PreTrainedModel,
    head_VD: Tensor,
    mean_D: Tensor,
    batch: Sequence[_Row],
    spelled: Sequence[Sequence[int]],
) -> None:
    """Reads a batch, and adds c and g of each occurrence to the sums of its piece."""
    ids_BT = pad_sequences([row.ids for row in batch], 0).to(model.device)
    # with causal attention, padding on the right needs no mask
    hidden_BTD = model.base_model(ids_BT, use_cache=False).last_hidden_state
    places = [(number, *place) for number, row in enumerate(batch) for place in row.pieces]
    rest = [(number, at - 1, piece) for number, piece, first, end in places for at in range(first + 1, end)]
    for begin in range(0, len(rest), _CHUNK_LEN):
        row_C, at_C, piece_C = torch.tensor(rest[begin : begin + _CHUNK_LEN]).T
        logits_CV = F.linear(hidden_BTD[row_C, at_C], head_VD).float()
        nats_C = F.cross_entropy(logits_CV, ids_BT[row_C, at_C + 1], reduction="none")
        sums.rest.index_add_(0, piece_C, nats_C.double().cpu())
    if places:
        row_N, piece_N, first_N, _ = torch.tensor(places).T
        above_ND = head_VD[ids_BT[row_N, first_N]].float() - mean_D
        gap_N = (hidden_BTD[row_N, first_N - 1].float() * above_ND).sum(1)
        sums.gap.index_add_(0, piece_N, gap_N.double().cpu())
        sums.count.index_add_(0, piece_N, torch.ones(len(places), dtype=torch.float64))
