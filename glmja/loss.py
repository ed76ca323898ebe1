"""The loss of the next token, at the positions where something is to be learnt.

Dimensions: B rows, T tokens, D width, V vocabulary, N learnt positions
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from glmja.batch import IGNORE_INDEX


def next_token_loss(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the next tokens, summed, and the labels that it was summed over.

    The head is applied to learnt positions only: logits are the largest tensor of training.

    Args:
        hidden_BTD: Last hidden states, after the final norm.
        head_VD: The output embeddings.
        labels_BT: Ids, not shifted; `IGNORE_INDEX` where nothing is to be learnt.

    Returns:
        The sum in nats (0 if nothing is to be learnt), fp32; and the learnt labels, (N,).
    """
    targets_BT = labels_BT[:, 1:]
    learnt_BT = targets_BT != IGNORE_INDEX
    targets_N = targets_BT[learnt_BT]
    logits_NV = F.linear(hidden_BTD[:, :-1][learnt_BT], head_VD).float()  # 16 bits lose the tail of the softmax
    return F.cross_entropy(logits_NV, targets_N, reduction="sum"), targets_N
