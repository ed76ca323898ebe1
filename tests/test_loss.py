import pytest
import torch
import torch.nn.functional as F

from glmja.batch import IGNORE_INDEX
from glmja.loss import next_token_loss


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(share):
    torch.manual_seed(0)
    hidden = torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(20, (3, 9))
    labels[torch.rand(3, 9) >= share] = IGNORE_INDEX

    total, learnt = next_token_loss(hidden, head, labels)
    ours = torch.autograd.grad(total, (hidden, head))
    logits = F.linear(hidden, head)[:, :-1].flatten(0, 1)
    plain = F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    theirs = torch.autograd.grad(plain, (hidden, head))

    assert learnt.tolist() == [i for i in labels[:, 1:].flatten().tolist() if i != IGNORE_INDEX]
    torch.testing.assert_close(total.double(), plain, rtol=1e-5, atol=1e-5)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_is_a_loss_of_zero():
    total, learnt = next_token_loss(torch.randn(2, 4, 8), torch.randn(20, 8), torch.full((2, 4), IGNORE_INDEX))
    assert total.item() == 0
    assert learnt.numel() == 0


def test_sixteen_bit_logits_are_summed_in_32_bits():
    hidden, head = torch.randn(1, 200, 8).bfloat16(), torch.randn(500, 8).bfloat16()
    total, _ = next_token_loss(hidden, head, torch.randint(500, (1, 200)))
    assert total.dtype == torch.float32
