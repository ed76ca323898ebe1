"""Cross entropy of the next token, computed without holding all logits.

The logits are the largest tensor of training: for 8,192 tokens and 78,592 vocabulary entries they take 2.6 GB in fp32,
and plain code holds them more than once. Here the head is applied to target positions only, chunk by chunk, and the
gradients of a chunk are computed in the forward pass, while its logits exist; the backward pass only scales them. The
price: gradients are computed even if the loss is never differentiated, unless autograd is off.

Dimensions: B rows, T tokens, D width, V vocabulary, N target positions, C positions of a chunk
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX


def next_token_loss(
    hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor, chunk_len: int = 256
) -> tuple[Tensor, Tensor]:
    """Sums the cross entropy of the next token over all target tokens.

    Args:
        hidden_BTD: Last hidden states, after the final norm.
        head_VD: Output embeddings.
        labels_BT: Token ids, not shifted; `IGNORE_INDEX` at positions that are not target tokens.
        chunk_len: Number of positions whose logits are held at a time.

    Returns:
        The sum in nats (0 without target tokens), in fp32 or wider, and the target tokens, (N,).
    """
    targets_BT = labels_BT[:, 1:]
    is_target_BT = targets_BT != IGNORE_INDEX
    targets_N = targets_BT[is_target_BT]
    device = hidden_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_BTD.dtype
    total: Tensor = _SummedCrossEntropy.apply(hidden_BTD[:, :-1][is_target_BT], head_VD, targets_N, chunk_len, dtype)
    return total, targets_N


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of the logits `hidden @ head.T`."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_len: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtypes = hidden_ND.dtype, head_VD.dtype
        hidden_ND, head_VD = hidden_ND.to(dtype), head_VD.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)  # 16 bits round the tail of the softmax to zero
        # autocast would cast the head again for each chunk, and does not apply to products with `out=`
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return _SummedCrossEntropy._sum(ctx, hidden_ND, head_VD, targets_N, chunk_len, wide)

    @staticmethod
    def _sum(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_len: int, wide: torch.dtype
    ) -> Tensor:
        total = torch.zeros((), dtype=wide, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_head_VD = torch.zeros_like(head_VD, dtype=wide) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_ND), chunk_len):
            chunk = slice(start, start + chunk_len)
            hidden_CD, targets_C1 = hidden_ND[chunk], targets_N[chunk, None]
            logits_CV = F.linear(hidden_CD, head_VD).to(wide)
            log_norm_C1 = logits_CV.logsumexp(-1, keepdim=True)
            total += (log_norm_C1 - logits_CV.gather(1, targets_C1)).sum()
            if grad_hidden_ND is None and grad_head_VD is None:
                continue
            # gradient of the logits, written over them: softmax minus one-hot
            grad_CV = logits_CV.sub_(log_norm_C1).exp_()
            grad_CV.scatter_add_(1, targets_C1, torch.full_like(log_norm_C1, -1.0))
            grad_CV = grad_CV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_CV, head_VD, out=grad_hidden_ND[chunk])
            if grad_head_VD is not None:
                if wide == hidden_ND.dtype:
                    grad_head_VD.addmm_(grad_CV.T, hidden_CD)
                else:
                    grad_head_VD += grad_CV.T @ hidden_CD
        ctx.grad_hidden_ND, ctx.grad_head_VD = grad_hidden_ND, grad_head_VD
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (scale,) = grad_outputs
        hidden_dtype, head_dtype = ctx.dtypes
        hidden = None if ctx.grad_hidden_ND is None else (ctx.grad_hidden_ND * scale).to(hidden_dtype)
        head = None if ctx.grad_head_VD is None else ctx.grad_head_VD.mul_(scale).to(head_dtype)
        ctx.grad_hidden_ND = ctx.grad_head_VD = None
        return hidden, head, None, None, None
