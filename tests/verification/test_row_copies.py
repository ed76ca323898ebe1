from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmja.verification.row_copies import RowCopies, count_copies
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import MemoryTensor

# few different rows of two values, so that copies are frequent
matrices = st.lists(st.tuples(st.sampled_from([0.0, 1.0, -2.5]), st.sampled_from([0.0, 3.0])), min_size=9, max_size=9)


def model(inputs, heads, dtype=torch.float32):
    tensors = {name: MemoryTensor(torch.tensor(rows).to(dtype)) for name, rows in ((EMBEDDING, inputs), (HEAD, heads))}
    return Checkpoint(Path(), {"model_type": "glm"}, tensors)


@given(inputs=matrices, heads=matrices, num_old=st.integers(1, 9))
def test_copies_are_those_of_a_plain_comparison_of_all_pairs(inputs, heads, num_old):
    found = count_copies(model(inputs, heads), num_old, 9 - num_old)
    for name, rows in (("input", inputs), ("head", heads), ("both", list(zip(inputs, heads, strict=True)))):
        old, new = rows[:num_old], rows[num_old:]
        expected = RowCopies(sum(row in old for row in new), sum(new.count(row) > 1 for row in new))
        assert found[name] == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_that_differ_in_one_bit_are_no_copies(dtype):
    first = torch.ones(64, dtype=dtype)
    second = first.clone()
    second.view(torch.uint8)[17] ^= 1
    rows = torch.stack([first, second, first]).tolist()
    found = count_copies(model(rows, rows, dtype), 1, 2)
    assert found["both"] == RowCopies(of_old_rows=1, shared=0)


def test_padding_rows_do_not_count():
    rows = [[float(i), 0.0] for i in range(4)] + [[9.0, 9.0]] * 5
    assert count_copies(model(rows, rows), 2, 2)["both"] == RowCopies(0, 0)
