"""How a model predicts the pieces that its tokenizer gained.

Logits are computed in fp32 from the stored states and rows: in 16 bits, several logits are often equal.

Dimensions: N positions, C positions of a chunk, V vocabulary, D width
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.evaluation.likelihood import Distributions

_CHUNK_LEN = 256  # positions: 80 MB of logits at 78,592 rows
_ROWS_PER_BLOCK = 8192  # of the head, cast to fp32 at a time


@dataclass(frozen=True)
class NewPieceUse:
    """Predictions of new pieces in a text.

    Attributes:
        positions: Number of predicted tokens.
        targets: Number of these that are new pieces.
        on_top: Number of positions at which a new piece has the largest logit.
        smallest_lead: Smallest difference between the largest old and the largest new logit of a position, in nats;
            negative if a new piece is on top somewhere.
        mass: Mean probability of all new pieces together.
        median_rank: Median rank of the right token where it is a new piece; 1 is the best. None if it never is.
    """

    positions: int
    targets: int
    on_top: int
    smallest_lead: float
    mass: float
    median_rank: float | None


@torch.inference_mode()
def use_of_new_pieces(found: Distributions, new_ids: range, device: torch.device | str = "cpu") -> NewPieceUse:
    """Computes how new pieces are predicted.

    Args:
        found: Next-token distributions of a text.
        new_ids: Ids of the new pieces, the last ones of the vocabulary.
        device: Device to compute on.
    """
    head_VD, first = found.head_VD.to(device), new_ids.start
    assert 0 < first < new_ids.stop == len(head_VD)
    ranks: list[float] = []
    leads, masses = [], []
    for states_CD, targets_C in _chunks(found):
        logits_CV = torch.cat(
            [F.linear(states_CD.to(device).float(), rows.float()) for rows in head_VD.split(_ROWS_PER_BLOCK)], 1
        )
        leads.append(logits_CV[:, :first].amax(1) - logits_CV[:, first:].amax(1))
        masses.append((logits_CV[:, first:].logsumexp(1) - logits_CV.logsumexp(1)).exp())
        is_new_C = targets_C >= first
        if is_new_C.any():
            new_CV, right_C1 = logits_CV[is_new_C.to(device)], targets_C[is_new_C].to(device)[:, None]
            ranks += (1 + (new_CV > new_CV.gather(1, right_C1)).sum(1)).tolist()
    leads_N, masses_N = torch.cat(leads), torch.cat(masses)
    return NewPieceUse(
        positions=len(leads_N),
        targets=len(ranks),
        on_top=int((leads_N < 0).sum()),
        smallest_lead=float(leads_N.min()),
        mass=float(masses_N.double().mean()),
        median_rank=statistics.median(ranks) if ranks else None,
    )


def _chunks(found: Distributions) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields states, (C, D), and the ids that follow them, (C,)."""
    for ids, states_ND in zip(found.ids, found.states, strict=True):
        targets_N = torch.tensor(ids[len(ids) - len(states_ND) :])
        yield from zip(states_ND.split(_CHUNK_LEN), targets_N.split(_CHUNK_LEN), strict=True)
