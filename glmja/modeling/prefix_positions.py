"""Positions and visibility in ChatGLM-6B's sequences: a context, read in both directions, then an answer.

A token has two positions. In the context the first one counts and the second is 0; in the answer, from `<sop>` on, the
first one stays at that of the mask token, where the answer belongs, and the second counts from 1. So the positions
distinguish context from answer, and in a row of several documents determine where each begins.

Dimensions: B rows, T tokens, S keys
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from glmja.modeling.batch import document_starts


class ControlIds(Protocol):
    """The control tokens that positions depend on."""

    bos_token_id: int
    mask_token_id: int
    gmask_token_id: int


def positions_of(input_ids: Tensor, attention_mask: Tensor | None, ids: ControlIds) -> Tensor:
    """Returns both positions of each token, (B, 2, T).

    Args:
        input_ids: (B, T), a document in each row.
        attention_mask: (B, T), 0 at padding on the left, which has positions 0; none if None.
        ids: Ids of the control tokens.

    Raises:
        ValueError: If a row has no `<sop>`, or neither `[gMASK]` nor `[MASK]` before it.
    """
    index_T = torch.arange(input_ids.shape[1], device=input_ids.device)
    start_B1 = 0 if attention_mask is None else attention_mask[:, : len(index_T)].argmax(1, keepdim=True)
    sop_B1 = _first(input_ids == ids.bos_token_id)
    context_BT = index_T < sop_B1
    gmask_B1 = _first((input_ids == ids.gmask_token_id) & context_BT)
    mask_B1 = _first((input_ids == ids.mask_token_id) & context_BT)
    at_B1 = torch.where(gmask_B1 < len(index_T), gmask_B1, mask_B1)
    if (bad_B := (torch.maximum(at_B1, sop_B1) == len(index_T)).any(1)).any():
        row = int(bad_B.nonzero()[0])
        raise ValueError(f"row {row}: a sequence of ChatGLM-6B needs [gMASK] or [MASK], and <sop> after it")
    first_BT = torch.where(context_BT, index_T, at_B1) - start_B1
    return torch.stack([first_BT.clamp(min=0), (index_T - sop_B1 + 1).clamp(min=0)], 1)


def visible_keys(position_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Returns which keys each token attends to, (B, 1, T, T): those before it, and the context, of its own document.

    A padding token is attended to only by itself, since SDPA returns NaN for a token that attends to nothing.

    Args:
        position_ids: (B, 2, T).
        attention_mask: (B, T), 0 at padding; none if None.
    """
    document_BT = document_starts(position_ids).cumsum(1)
    index_T = torch.arange(position_ids.shape[-1], device=position_ids.device)
    visible_BTT = (index_T <= index_T[:, None]) | (position_ids[:, 1] == 0)[:, None]
    visible_BTT &= document_BT[:, None] == document_BT[:, :, None]
    if attention_mask is not None:
        visible_BTT &= attention_mask[:, None].bool() | (index_T == index_T[:, None])
    return visible_BTT[:, None]


def visible_keys_cached(num_new: int, num_cached: int, attention_mask: Tensor | None) -> Tensor | None:
    """Returns which keys each new token of an answer attends to, (B or 1, 1, T, S): all before it.

    None if that is all keys.

    Args:
        num_new: Number of new tokens.
        num_cached: Number of cached tokens.
        attention_mask: (B, S), 0 at padding; none if None.
    """
    if num_new == 1:
        return None if attention_mask is None else attention_mask[:, None, None].bool()
    device = None if attention_mask is None else attention_mask.device
    visible_TS = torch.ones(num_new, num_cached + num_new, dtype=torch.bool, device=device).tril(num_cached)
    return visible_TS[None, None] if attention_mask is None else visible_TS & attention_mask[:, None, None].bool()


def _first(found_BT: Tensor) -> Tensor:
    """Returns the index of the first true value of each row, (B, 1); T if there is none."""
    index_B1 = found_BT.int().argmax(1, keepdim=True)
    return torch.where(found_BT.any(1, keepdim=True), index_B1, found_BT.shape[1])
