import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.embeddings import resize
from glmja.weights.row_mixtures import RowMixtures, mix_rows
from glmja.weights.tensors import MemoryTensor

NUM_OLD, WIDTH = 40, 16
NAMES = (EMBEDDING, HEAD)
INITS = ("positional", "subtoken_mean", "mean")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

spellings = st.lists(st.lists(st.integers(0, NUM_OLD - 1), min_size=1, max_size=12), min_size=1, max_size=20)


def old_rows(seed, dtype):
    return torch.randn(NUM_OLD + 3, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def resized(old_ND, mixtures, num_rows=None):
    mean_D = old_ND[:NUM_OLD].sum(0, dtype=torch.float64) / NUM_OLD
    source = Checkpoint(Path(), {}, {HEAD: MemoryTensor(old_ND)})
    return resize(source, {HEAD: mean_D}, NUM_OLD, {HEAD: mixtures}, num_rows or NUM_OLD + len(mixtures))[HEAD]


@given(spelled=spellings, init=st.sampled_from([*INITS, "calibrated"]), share=st.floats(0, 1))
def test_weights_are_convex(spelled, init, share):
    for mixtures in mix_rows(NAMES, init, spelled, [share] * len(spelled)).values():
        assert len(mixtures) == len(spelled)
        for weights, of_mean in zip(mixtures.weights, mixtures.mean_shares, strict=True):
            assert min(weights) >= 0 and 0 <= of_mean <= 1
            assert abs(math.fsum(weights) - 1) < 1e-15 * len(weights)


@given(spelled=spellings, seed=st.integers(0, 2**32), init=st.sampled_from(INITS), dtype=st.sampled_from(DTYPES))
def test_new_rows_are_those_of_a_plain_computation_rounded_once(spelled, seed, init, dtype):
    old_ND = old_rows(seed, dtype)
    plain_ND = old_ND[:NUM_OLD].double()
    mean_D = plain_ND.mean(0)
    for name, mixtures in mix_rows(NAMES, init, spelled).items():
        for ids, row_D in zip(spelled, resized(old_ND, mixtures).read_all()[NUM_OLD:], strict=True):
            even_D = sum(plain_ND[i] for i in ids) / len(ids)
            rising_D = sum(math.e ** (2 * k) * plain_ND[i] for k, i in enumerate(ids))
            rising_D = rising_D / sum(math.e ** (2 * k) for k in range(len(ids)))
            positional_D = rising_D if name == EMBEDDING else even_D / 2 + mean_D / 2
            expected_D = {"positional": positional_D, "subtoken_mean": even_D, "mean": mean_D}[init]
            error = (row_D.double() - expected_D).abs()
            assert (error <= torch.finfo(dtype).eps / 2 * expected_D.abs() + 1e-7).all()


@given(spelled=spellings, seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES), aligned=st.booleans())
def test_no_stored_positional_row_has_the_largest_logit(spelled, seed, dtype, aligned):
    old_ND = old_rows(seed, dtype)
    stored_ND = resized(old_ND, mix_rows(NAMES, "positional", spelled)[HEAD]).read_all().double()
    # states in any direction, and in that of a row that spells a new piece, where its own logit is on top
    random_ND = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    states_ND = stored_ND[spelled[0]] if aligned else random_ND
    logits_NV = states_ND @ stored_ND.T
    assert (logits_NV[:, NUM_OLD:].amax(1) < logits_NV[:, :NUM_OLD].amax(1)).all()


@given(spelled=spellings, seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES), share=st.floats(0, 0.9))
def test_a_calibrated_head_row_lies_between_the_first_subtoken_and_the_mean(spelled, seed, dtype, share):
    old_ND = old_rows(seed, dtype)
    shares = [share / (1 + number) for number in range(len(spelled))]
    new_ND = resized(old_ND, mix_rows(NAMES, "calibrated", spelled, shares)[HEAD]).read_all()[NUM_OLD:].double()
    plain_ND = old_ND[:NUM_OLD].double()
    for ids, each, row_D in zip(spelled, shares, new_ND, strict=True):
        expected_D = (1 - each) * plain_ND[ids[0]] + each * plain_ND.mean(0)
        error = (row_D - expected_D).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * expected_D.abs() + 1e-7).all()


@given(spelled=spellings, seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES), share=st.floats(0.05, 0.9))
def test_no_stored_calibrated_row_has_the_largest_logit(spelled, seed, dtype, share):
    old_ND = old_rows(seed, dtype)
    stored_ND = (
        resized(old_ND, mix_rows(NAMES, "calibrated", spelled, [share] * len(spelled))[HEAD]).read_all().double()
    )
    logits_NV = stored_ND[[ids[0] for ids in spelled]] @ stored_ND.T
    assert (logits_NV[:, NUM_OLD:].amax(1) < logits_NV[:, :NUM_OLD].amax(1)).all()


@given(spelled=spellings, seed=st.integers(0, 2**32), init=st.sampled_from(INITS), dtype=st.sampled_from(DTYPES))
def test_a_stored_row_exceeds_old_logits_by_no_more_than_its_rounding(spelled, seed, init, dtype):
    old_ND = old_rows(seed, dtype)
    stored_ND = resized(old_ND, mix_rows(NAMES, init, spelled)[HEAD]).read_all().double()
    states_ND = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    largest_N1 = (states_ND @ stored_ND[:NUM_OLD].T).amax(1, keepdim=True)
    new_NV = states_ND @ stored_ND[NUM_OLD:].T
    rounding_NV = states_ND.abs() @ (stored_ND[NUM_OLD:].T.abs() * torch.finfo(dtype).eps + 1e-7)
    assert (new_NV <= largest_N1 + rounding_NV).all()


@given(spelled=spellings, seed=st.integers(0, 2**32), init=st.sampled_from(INITS), cut=st.integers(0, 60))
def test_rows_are_the_same_bits_in_every_run_and_in_blocks_of_any_size(spelled, seed, init, cut):
    for name, mixtures in mix_rows(NAMES, init, spelled).items():
        source = resized(old_rows(seed, torch.float32), mixtures, NUM_OLD + len(spelled) + 5)
        whole_ND, cut_at = source.read_all(), min(cut, source.shape[0])
        assert torch.equal(torch.cat([source.read(0, cut_at), source.read(cut_at, source.shape[0])]), whole_ND)
        again = resized(old_rows(seed, torch.float32), mix_rows(NAMES, init, spelled)[name])
        assert torch.equal(again.read_all(), whole_ND[: NUM_OLD + len(spelled)])


def test_permuted_spellings_get_different_input_rows():
    old_ND = old_rows(0, torch.float16)
    first_D, second_D = resized(old_ND, mix_rows(NAMES, "positional", [[3, 5, 9], [5, 3, 9]])[EMBEDDING]).read_all()[
        NUM_OLD:
    ]
    assert not torch.equal(first_D, second_D)
    equal_ND = resized(old_ND, mix_rows(NAMES, "subtoken_mean", [[3, 5, 9], [5, 3, 9]])[EMBEDDING]).read_all()[NUM_OLD:]
    assert torch.equal(*equal_ND)


@pytest.mark.parametrize(
    ("weights", "share"), [([0.5, 0.4], 0.0), ([1.5, -0.5], 0.0), ([0.5, 0.5], 1.1), ([0.5, 0.5], -0.1)]
)
def test_what_is_not_convex_cannot_be_made(weights, share):
    with pytest.raises(AssertionError):
        RowMixtures([[1, 2]], [weights], [share])
