import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmja.evaluation import new_pieces
from glmja.evaluation.likelihood import Distributions, measure
from glmja.evaluation.new_piece_scores import RowScores
from glmja.evaluation.new_pieces import compare_rows, use_of_new_pieces
from glmja.modeling.loading import load_model

V, D = 30, 5


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    first=st.integers(1, V - 1),
    seed=st.integers(0, 2**32),
    chunk=st.integers(1, 12),
    block=st.integers(1, V),
)
def test_figures_are_those_of_a_plain_computation_in_blocks_of_any_size(lengths, first, seed, chunk, block):
    generator = torch.Generator().manual_seed(seed)
    head_VD = torch.randn(V, D, generator=generator)
    states = [torch.randn(length, D, generator=generator) for length in lengths]
    ids = [torch.randint(0, V, (2 + length,), generator=generator).tolist() for length in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_pieces, "_CHUNK_LEN", chunk)
        patch.setattr(new_pieces, "_ROWS_PER_BLOCK", block)
        found = use_of_new_pieces(Distributions(ids, states, head_VD), range(first, V))
    leads, masses, ranks = [], [], []
    for row, states_ND in zip(ids, states, strict=True):
        for target, state_D in zip(row[2:], states_ND, strict=True):
            logits = (head_VD.double() @ state_D.double()).tolist()
            exps = torch.tensor(logits).exp()
            leads.append(max(logits[:first]) - max(logits[first:]))
            masses.append(float(exps[first:].sum() / exps.sum()))
            if target >= first:
                ranks.append(1 + sum(logit > logits[target] for logit in logits))
    assert found.positions == len(leads) and found.targets == len(ranks)
    assert found.on_top == sum(lead < 0 for lead in leads)
    assert found.smallest_lead == pytest.approx(min(leads), abs=1e-4)
    assert found.mass == pytest.approx(sum(masses) / len(masses), abs=1e-5)
    assert found.median_rank == (statistics.median(ranks) if ranks else None)


def test_targets_are_the_new_pieces_of_the_text(zero_dir, tokenizer, texts):
    documents = [texts["ja"][0][:300], texts["zh"][0][:100], texts["ja"][1][:80]]
    model = load_model(zero_dir, torch.float32)
    likelihood, found = measure(model, tokenizer, documents, 32, 2, keep=10**9)
    use = use_of_new_pieces(found, tokenizer.new_ids)
    ids = [token_id for document in documents for token_id in tokenizer.encode(document)]
    assert use.positions == likelihood.tokens == len(ids)
    assert use.targets == sum(token_id in tokenizer.new_ids for token_id in ids) > 0
    assert 1 < use.median_rank <= len(tokenizer)


@given(num_old=st.integers(1, 12), num_new=st.integers(1, 12), width=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_effective_ranks_are_those_of_the_singular_values(num_old, num_new, width, seed):
    weight_VD = torch.randn(num_old + num_new, width, generator=torch.Generator().manual_seed(seed))
    found = compare_rows(weight_VD, range(num_old, num_old + num_new))
    n = min(num_old, num_new)
    for scores, first, last in ((found.new, num_old, num_old + num_new - 1), (found.old, 0, num_old - 1)):
        rows = weight_VD.double().numpy()[np.rint(np.linspace(first, last, n)).astype(int)]
        singular = np.linalg.svd(rows, compute_uv=False)
        shares = singular / singular.sum()
        assert scores.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
        assert scores.mean_norm == pytest.approx(np.linalg.norm(rows, axis=1).mean())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (torch.ones(4, 3), RowScores(3**0.5, 1)),  # collapsed to one direction
        (2 * torch.eye(4), RowScores(2, 4)),  # orthogonal
        (torch.zeros(4, 3), RowScores(0, 1)),
    ],
)
def test_effective_rank_tells_collapsed_from_orthogonal_rows(rows, expected):
    found = compare_rows(torch.cat([torch.eye(4, rows.shape[1]), rows]), range(4, 8)).new
    assert found.mean_norm == pytest.approx(expected.mean_norm)
    assert found.effective_rank == pytest.approx(expected.effective_rank, abs=1e-4)
