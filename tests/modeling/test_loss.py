import pytest
import torch
import torch.nn.functional as F

from glmja.modeling.batch import IGNORE_INDEX
from glmja.modeling.loss import next_token_loss


def case(share, dtype=torch.float64, rows=3, tokens=9, width=8, vocabulary=20):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, tokens, width, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(vocabulary, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) >= share] = IGNORE_INDEX
    return hidden, head, labels


def plain_loss(hidden, head, labels):
    logits = F.linear(hidden, head)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.mark.parametrize("chunk_len", [1, 5, 24, 512])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_loss_and_gradients_equal_those_of_plain_cross_entropy(share, chunk_len):
    hidden, head, labels = case(share)
    total, targets = next_token_loss(hidden, head, labels, chunk_len)
    plain = plain_loss(hidden, head, labels)
    assert targets.tolist() == [i for i in labels[:, 1:].flatten().tolist() if i != IGNORE_INDEX]
    torch.testing.assert_close(total, plain)
    ours, theirs = (torch.autograd.grad(loss / 7, (hidden, head)) for loss in (total, plain))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_a_frozen_input_has_no_gradient(frozen):
    hidden, head, labels = case(0.5)
    (hidden if frozen == "hidden" else head).requires_grad_(False)
    next_token_loss(hidden, head, labels, 4)[0].backward()
    plain_hidden, plain_head, _ = case(0.5)
    plain_loss(plain_hidden, plain_head, labels).backward()
    assert (hidden.grad is None) == (frozen == "hidden") and (head.grad is None) == (frozen == "head")
    trained, plain = (head, plain_head) if frozen == "hidden" else (hidden, plain_hidden)
    torch.testing.assert_close(trained.grad, plain.grad)


def test_without_autograd_the_loss_is_the_same():
    hidden, head, labels = case(0.5)
    with torch.no_grad():
        assert next_token_loss(hidden, head, labels)[0] == next_token_loss(hidden, head, labels)[0].detach()
        torch.testing.assert_close(next_token_loss(hidden, head, labels)[0], plain_loss(hidden, head, labels))


def test_without_target_tokens_loss_and_gradients_are_zero():
    hidden, head, labels = case(0.0)
    total, targets = next_token_loss(hidden, head, labels)
    total.backward()
    assert total.item() == targets.numel() == hidden.grad.abs().sum() == head.grad.abs().sum() == 0


def test_in_16_bits_loss_and_gradients_are_as_accurate_as_those_of_plain_code():
    hidden, head, labels = case(0.8, torch.bfloat16, 4, 64, 32, 3000)
    exact_hidden, exact_head = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    total, _ = next_token_loss(hidden, head, labels, 50)
    assert total.dtype == torch.float32
    exact = plain_loss(exact_hidden, exact_head, labels)
    torch.testing.assert_close(total.double(), exact, rtol=1e-3, atol=0)

    def error(loss):
        pairs = zip(torch.autograd.grad(loss, (hidden, head)), exact_gradients, strict=True)
        return [float((our.double() - truth).norm() / truth.norm()) for our, truth in pairs]

    exact_gradients = torch.autograd.grad(exact, (exact_hidden, exact_head))
    for ours, theirs in zip(error(total), error(plain_loss(hidden, head, labels)), strict=True):
        assert ours <= 1.1 * theirs


def test_under_autocast_products_are_in_16_bits_and_gradients_have_the_dtype_of_the_inputs():
    hidden, head, labels = case(0.8, torch.float32, 4, 64, 32, 3000)
    exact, _ = next_token_loss(hidden, head, labels, 50)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = next_token_loss(hidden, head, labels, 50)
        assert torch.is_autocast_enabled("cpu")
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=1e-3, atol=0)
    ours, theirs = (torch.autograd.grad(loss, (hidden, head)) for loss in (total, exact))
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == torch.float32
        assert 1e-5 < (our - their).norm() / their.norm() < 1e-2
