"""Every optimizer of `torch.optim` works, or is refused in one line before the run."""

import io
from functools import partial

import pytest
import torch

from lit_modules.optimizers import describe_optimizer, try_optimizer

WORKING = {
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
}  # fmt: skip
REFUSED = {
    "LBFGS": "computes the loss of a step several times",
    "SparseAdam": "does not support dense gradients",
    "Muon": "only supports 2D parameters",
    "Optimizer": "required positional argument: 'defaults'",
}
ALL = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}


def test_the_table_has_every_optimizer():
    assert WORKING | REFUSED.keys() == ALL


@pytest.mark.parametrize("name", sorted(WORKING))
def test_an_optimizer_works_and_its_state_can_be_resumed(name):
    create = getattr(torch.optim, name)
    used = try_optimizer(create)
    file = io.BytesIO()
    torch.save(used.state_dict(), file)
    file.seek(0)
    try_optimizer(create).load_state_dict(torch.load(file, weights_only=True))
    described = describe_optimizer(partial(create, lr=0.25))
    assert described["class"].endswith(f".{name}")
    assert described["lr"] == 0.25


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_optimizer_that_cannot_work_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^`optimizer`: .*{REFUSED[name]}.*; correct it, or use tor"):
        try_optimizer(getattr(torch.optim, name))


def test_muon_works_where_only_matrices_are_trained():
    assert type(try_optimizer(torch.optim.Muon, matrices_only=True)).__name__ == "Muon"


def test_an_argument_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`optimizer`: Invalid learning rate: -1"):
        try_optimizer(partial(torch.optim.AdamW, lr=-1))
