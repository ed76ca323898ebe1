import pytest
import torch
import torch.nn.functional as F

from glmja.modeling.batch import IGNORE_INDEX
from glmja.modeling.loss import TeacherStates, next_token_loss, token_losses


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


def taught_case(share, known, **options):
    hidden, head, labels = case(share, **options)
    generator = torch.Generator().manual_seed(1)
    teacher = TeacherStates(torch.randn(hidden.shape, generator=generator).to(hidden.dtype), head.detach()[:known] * 2)
    return hidden, head, labels, teacher


def plain_divergences(hidden, head, labels, teacher):
    """KL(teacher || model) at the positions before target tokens; the teacher gives nothing to ids it does not know."""
    kept = labels[:, 1:] != IGNORE_INDEX
    student = F.linear(hidden, head)[:, :-1][kept].log_softmax(-1)
    wanted = F.linear(teacher.hidden_BTD, teacher.head_OD)[:, :-1][kept].softmax(-1)
    return F.kl_div(student[:, : wanted.shape[1]], wanted, reduction="none").sum(-1)


@pytest.mark.parametrize("known", [13, 20])
@pytest.mark.parametrize("chunk_len", [1, 5, 512])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_and_gradients_equal_the_plain_computation(share, chunk_len, known, dtype):
    hidden, head, labels, teacher = taught_case(share, known, dtype=dtype)
    losses = token_losses(hidden, head, labels, chunk_len, teacher)
    plain = plain_divergences(hidden, head, labels, teacher)
    torch.testing.assert_close(losses.each_N, plain)
    torch.testing.assert_close(losses.total, plain.sum())
    ours, theirs = (torch.autograd.grad(loss / 7, (hidden, head)) for loss in (losses.total, plain.sum()))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_a_model_that_equals_its_teacher_has_neither_divergence_nor_gradients():
    hidden, head, labels = case(1.0, torch.float32)
    losses = token_losses(hidden, head, labels, 5, TeacherStates(hidden, head))
    losses.total.backward()
    assert losses.each_N.abs().max() < 1e-6 and hidden.grad.abs().max() < 1e-6 and head.grad.abs().max() < 1e-6


def test_no_gradient_flows_into_the_teacher():
    hidden, head, labels, teacher = taught_case(1.0, 13)
    parts = [part.requires_grad_() for part in teacher]
    token_losses(hidden, head, labels, 5, TeacherStates(*parts)).total.backward()
    assert [part.grad for part in parts] == [None, None]


def test_the_losses_of_rows_sum_to_the_total():
    hidden, head, labels = case(0.5)
    labels[1] = IGNORE_INDEX
    losses = token_losses(hidden, head, labels, 5)
    alone = [next_token_loss(hidden[i : i + 1], head, labels[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(losses.of_rows(3), torch.stack(alone).detach())
    assert losses.of_rows(3)[1] == 0 and not losses.of_rows(3).requires_grad
