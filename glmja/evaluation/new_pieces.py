"""Measures how a model predicts the new pieces of its tokenizer.

Logits are computed in fp32 from the stored states and rows: in 16 bits, several logits are often equal.

Dimensions: N positions, C positions of a chunk, V vocabulary, D width
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.evaluation.likelihood import Distributions
from glmja.evaluation.new_piece_scores import NewPieceUse, NewRows, RowScores

_CHUNK_LEN = 256  # positions: 80 MB of logits at 78,592 rows
_SAMPLED_ROWS = 2048
_ROWS_PER_BLOCK = 8192  # of the head, cast to fp32 at a time


def compare_rows(weight_VD: Tensor, new_ids: range) -> NewRows:
    """Compares the new rows of a matrix with as many old ones.

    Args:
        weight_VD: The matrix.
        new_ids: Ids of the new rows; the old ones are before them.
    """
    num_sampled = min(_SAMPLED_ROWS, len(new_ids), new_ids.start)
    new_ND, old_ND = (
        weight_VD.detach()[torch.linspace(ids.start, ids.stop - 1, num_sampled).round().long()].double()
        for ids in (new_ids, range(new_ids.start))
    )
    return NewRows(_scores_of(new_ND), _scores_of(old_ND))


def _scores_of(rows_ND: Tensor) -> RowScores:
    gram = rows_ND @ rows_ND.T if len(rows_ND) < rows_ND.shape[1] else rows_ND.T @ rows_ND
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    entropy = -torch.xlogy(shares, shares).sum()
    return RowScores(float(rows_ND.norm(dim=1).mean()), float(entropy.exp()))


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
