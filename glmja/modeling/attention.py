"""Attention within the documents of packed rows, computed document by document, without a mask over whole rows.

A row of T tokens holds several documents, and a token attends to those before it in its own document. A dense mask of
(B, 1, T, T) lets the kernels compute all T² products and discard most of them; computed document by document, only the
squares of the documents' lengths remain. `documents` is registered with `transformers` beside its own implementations;
a forward pass without boundaries, as in generation, is `sdpa`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from glmja.modeling.batch import Batch

AttentionName = Literal["documents", "sdpa", "eager", "flex_attention", "flash_attention_2"]

DOCUMENTS: AttentionName = "documents"


def check_attention(name: str) -> None:
    """Checks that an attention is installed.

    Raises:
        ValueError: If it is not.
    """
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise ValueError(
            f"`attn_implementation` is {name}, which needs a GPU and the package flash-attn; install it, or set "
            f"{DOCUMENTS}"
        )


def model_inputs(batch: Batch, attention: str) -> dict[str, Tensor | int]:
    """Returns the arguments of a forward pass over a batch, with which its documents are isolated.

    Args:
        batch: The batch.
        attention: Name of the model's attention. The flash attention of transformers recognizes packed rows by their
            positions only if there is one row, and needs the boundaries, too; the other implementations build a mask
            from the positions.
    """
    offsets, row_len = batch["document_offsets"], batch["input_ids"].shape[1]
    inputs: dict[str, Tensor | int] = {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": row_len,
        "max_length_k": row_len,
        "use_cache": False,
    }
    if attention == DOCUMENTS:
        inputs["attention_mask"] = offsets[None, None, None]  # transformers builds no mask if it is given one in 4-D
    return inputs


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes causal attention within documents, for the `AttentionInterface` of transformers.

    Args:
        module: The attention layer.
        query: (B, H, T, D).
        key: (B, G, T, D), where G divides H.
        value: (B, G, T, D).
        attention_mask: A mask for a forward pass without boundaries.
        dropout: Dropout probability of the attention weights.
        scaling: Factor of the logits; 1 / √D if None.
        cu_seq_lens_q: Offsets of the documents in the B rows one after the other, and the end, (N + 1,) int32.
        kwargs: Other arguments of `sdpa`.

    Returns:
        (B, T, H, D), and None in place of the attention weights.
    """
    if cu_seq_lens_q is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    batch_size, num_heads, row_len, head_dim = query.shape
    if len(cu_seq_lens_q) == batch_size + 1:  # a document in each row
        attended = _causal(query, key, value, dropout, scaling)
    elif query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        attended = varlen_attn(  # type: ignore[assignment]  # a tensor, since `return_aux` is not given
            _flat(query), _flat(key), _flat(value), cu_seq_lens_q, cu_seq_lens_q, row_len, row_len,
            scale=scaling, window_size=(-1, 0), enable_gqa=key.shape[1] != num_heads,
        )  # fmt: skip
    else:
        attended = _one_by_one(query, key, value, cu_seq_lens_q, dropout, scaling)
    return attended.view(batch_size, row_len, num_heads, head_dim), None


@torch.compiler.disable  # the lengths differ from batch to batch, and each would be compiled
def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """Returns the attention of each document, one after the other, (1, B · T, H, D)."""
    lengths = offsets.diff().tolist()
    states = [_flat(whole).transpose(0, 1)[None].split(lengths, dim=2) for whole in (query, key, value)]
    return torch.cat([_causal(q, k, v, dropout, scaling) for q, k, v in zip(*states, strict=True)], dim=1)


def _flat(states: Tensor) -> Tensor:
    """Returns the states of all rows one after the other: (B, H, T, D) as (B · T, H, D)."""
    return states.transpose(1, 2).flatten(0, 1)


def _causal(query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None) -> Tensor:
    """Returns causal attention over whole rows, (B, T, H, D)."""
    attended = F.scaled_dot_product_attention(
        query, key, value,
        dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return attended.transpose(1, 2).contiguous()


AttentionInterface.register(DOCUMENTS, _attend)
AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)
