"""Cross entropy of the next token, or its divergence from a teacher's, computed without holding all logits.

The logits are the largest tensor of training: for 8,192 tokens and 78,592 vocabulary entries they take 2.6 GB in fp32,
and plain code holds them more than once. Here the head is applied to target positions only, chunk by chunk, and the
gradients of a chunk are computed in the forward pass, while its logits exist; the backward pass only scales them. The
price: gradients are computed even if the loss is never differentiated, unless autograd is off.

Dimensions: B rows, T tokens, D width, V vocabulary, O ids that the teacher knows, N target positions, C positions of a
chunk
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glmja.modeling.batch import IGNORE_INDEX


class TeacherStates(NamedTuple):
    """Hidden states and embeddings that give a teacher's distributions of the next token; they get no gradients."""

    hidden_BTD: Tensor  # last hidden states, after the final norm
    head_OD: Tensor  # output embeddings of the first O ids


class TokenLosses(NamedTuple):
    """Losses of target tokens in nats, in fp32 or wider."""

    total: Tensor  # their sum, with gradients; 0 without target tokens
    each_N: Tensor  # each of them, without gradients
    rows_N: Tensor  # number of the row that each is from
    targets_N: Tensor  # the target tokens

    def of_rows(self, num_rows: int) -> Tensor:
        """Returns the sum within each row, (B,), without gradients."""
        return self.each_N.new_zeros(num_rows).index_add_(0, self.rows_N, self.each_N)


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
    losses = token_losses(hidden_BTD, head_VD, labels_BT, chunk_len)
    return losses.total, losses.targets_N


def token_losses(
    hidden_BTD: Tensor,
    head_VD: Tensor,
    labels_BT: Tensor,
    chunk_len: int = 256,
    teacher: TeacherStates | None = None,
) -> TokenLosses:
    """Computes the cross entropy of each target token, or KL(teacher ‖ model) of the next token at its position.

    The teacher's softmax is over the O ids that it knows, the model's over all V. So probability that the model gives
    to ids that the teacher does not know counts as a difference.

    Args:
        hidden_BTD: Last hidden states, after the final norm.
        head_VD: Output embeddings.
        labels_BT: Token ids, not shifted; `IGNORE_INDEX` at positions that are not target tokens. With a teacher, it
            does not matter which tokens they are.
        chunk_len: Number of positions whose logits are held at a time.
        teacher: States of the teacher at the same positions.
    """
    targets_BT = labels_BT[:, 1:]
    is_target_BT = targets_BT != IGNORE_INDEX
    targets_N = wanted = targets_BT[is_target_BT]
    device, teacher_head = hidden_BTD.device.type, None
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_BTD.dtype
    if teacher is not None:
        wanted, teacher_head = teacher.hidden_BTD[:, :-1][is_target_BT].detach(), teacher.head_OD.detach()
    hidden_ND = hidden_BTD[:, :-1][is_target_BT]
    total, each_N = _SummedLoss.apply(hidden_ND, head_VD, wanted, teacher_head, chunk_len, dtype)
    return TokenLosses(total, each_N, is_target_BT.nonzero()[:, 0], targets_N)


class _Ids:
    """The next tokens as targets."""

    def __init__(self, ids_C: Tensor) -> None:
        self.ids_C1 = ids_C[:, None]

    def losses(self, logits_CV: Tensor, log_norm_C1: Tensor) -> Tensor:
        """Returns the cross entropies, (C,)."""
        return (log_norm_C1 - logits_CV.gather(1, self.ids_C1))[:, 0]

    def subtract_from(self, softmax_CV: Tensor) -> None:
        """Subtracts the targets as one-hot vectors, in place."""
        softmax_CV.scatter_add_(1, self.ids_C1, softmax_CV.new_full(self.ids_C1.shape, -1.0))


class _Distribution:
    """A teacher's distributions of the next token as targets."""

    def __init__(self, logits_CO: Tensor) -> None:
        self.log_p_CO = logits_CO.log_softmax(-1)
        self.p_CO = self.log_p_CO.exp()

    def losses(self, logits_CV: Tensor, log_norm_C1: Tensor) -> Tensor:
        """Returns the divergences, (C,)."""
        # not a difference of two sums, of which only rounding errors would be left where the models agree
        gap_CO = self.log_p_CO - (logits_CV[:, : self.p_CO.shape[1]] - log_norm_C1)
        return gap_CO.mul_(self.p_CO).sum(-1)

    def subtract_from(self, softmax_CV: Tensor) -> None:
        """Subtracts the targets, in place."""
        softmax_CV[:, : self.p_CO.shape[1]] -= self.p_CO


class _SummedLoss(torch.autograd.Function):
    """Sum of the losses of the logits `hidden @ head.T`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets: Tensor,
        teacher_head_OD: Tensor | None,
        chunk_len: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Computes loss and gradients.

        Args:
            ctx: Keeps the gradients.
            hidden_ND: Last hidden states at the target positions.
            head_VD: Output embeddings.
            targets: Ids of the target tokens, (N,); with a teacher, its last hidden states, (N, D).
            teacher_head_OD: Output embeddings of the teacher, if there is one.
            chunk_len: Number of positions whose logits are held at a time.
            dtype: Dtype of the products.

        Returns:
            The sum of the losses, and each of them, (N,), of which only the sum is differentiable.
        """
        ctx.dtypes = hidden_ND.dtype, head_VD.dtype
        hidden_ND, head_VD = hidden_ND.to(dtype), head_VD.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)  # 16 bits round the tail of the softmax to zero
        if teacher_head_OD is not None:
            targets, teacher_head_OD = targets.to(dtype), teacher_head_OD.to(dtype)
        # autocast would cast the head again for each chunk, and does not apply to products with `out=`
        with torch.autocast(hidden_ND.device.type, enabled=False):
            each_N = _SummedLoss._losses(ctx, hidden_ND, head_VD, targets, teacher_head_OD, chunk_len, wide)
        ctx.mark_non_differentiable(each_N)
        return each_N.sum(), each_N

    @staticmethod
    def _losses(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets: Tensor,
        teacher_head_OD: Tensor | None,
        chunk_len: int,
        wide: torch.dtype,
    ) -> Tensor:
        each_N = torch.empty(len(hidden_ND), dtype=wide, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_head_VD = torch.zeros_like(head_VD, dtype=wide) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_ND), chunk_len):
            chunk = slice(start, start + chunk_len)
            hidden_CD, targets_C = hidden_ND[chunk], targets[chunk]
            wanted: _Ids | _Distribution = _Ids(targets_C)
            if teacher_head_OD is not None:
                wanted = _Distribution(F.linear(targets_C, teacher_head_OD).to(wide))
            logits_CV = F.linear(hidden_CD, head_VD).to(wide)
            log_norm_C1 = logits_CV.logsumexp(-1, keepdim=True)
            each_N[chunk] = wanted.losses(logits_CV, log_norm_C1)
            if grad_hidden_ND is None and grad_head_VD is None:
                continue
            # gradient of the logits, written over them: softmax minus what is wanted
            grad_CV = logits_CV.sub_(log_norm_C1).exp_()
            wanted.subtract_from(grad_CV)
            grad_CV = grad_CV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_CV, head_VD, out=grad_hidden_ND[chunk])
            if grad_head_VD is not None:
                if wide == hidden_ND.dtype:
                    grad_head_VD.addmm_(grad_CV.T, hidden_CD)
                else:
                    grad_head_VD += grad_CV.T @ hidden_CD
        ctx.grad_hidden_ND, ctx.grad_head_VD = grad_hidden_ND, grad_head_VD
        return each_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients of hidden states and head."""
        scale, _ = grad_outputs
        hidden_dtype, head_dtype = ctx.dtypes
        hidden = None if ctx.grad_hidden_ND is None else (ctx.grad_hidden_ND * scale).to(hidden_dtype)
        head = None if ctx.grad_head_VD is None else ctx.grad_head_VD.mul_(scale).to(head_dtype)
        ctx.grad_hidden_ND = ctx.grad_head_VD = None
        return hidden, head, None, None, None, None
