import json
import math

import pytest
import torch
from torch import nn

from glmja import fit
from glmja.modeling.loading import load_model
from glmja.runs.trained_state import TrainedState
from lit_modules.embedding_pull import EmbeddingPull, check_pull
from tests.support.demo_run import args, command

SHORT = {"trainer.callbacks": "[]", "trainer.max_steps": 3, "trainer.limit_val_batches": 0}
SHORT |= {"model.init_args.lora.dropout": 0.0}


@pytest.mark.parametrize(("strength", "share"), [(0.5, 0.05), (20.0, 1.0)])
def test_the_first_rows_are_pulled_to_their_start_after_the_step_and_the_others_are_not(strength, share):
    start, weight = torch.randn(3, 2), nn.Parameter(torch.randn(5, 2))
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.register_step_post_hook(EmbeddingPull(strength, [(weight, start)]))
    weight.grad = torch.ones(5, 2)
    optimizer.step()
    stepped = before - 0.1
    pulled = torch.cat([stepped[:3] - share * (stepped[:3] - start), stepped[3:]])
    torch.testing.assert_close(weight.detach(), pulled)


def test_a_skipped_step_pulls_nothing():
    weight = nn.Parameter(torch.ones(5, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    optimizer.register_step_post_hook(EmbeddingPull(5, [(weight, torch.zeros(3, 2))]))
    optimizer.step()
    assert weight.eq(1).all()


@pytest.mark.parametrize(
    ("strength", "embeddings", "message"),
    [
        (-1.0, "full", r"`embedding_pull` \(-1.0\) must be at least 0, and finite"),
        (math.nan, "full", r"`embedding_pull` \(nan\) must be at least 0, and finite"),
        (1.0, "new_rows", "pulls rows that train, and with `embeddings` new_rows the base's rows do not"),
    ],
)
def test_a_pull_that_cannot_be_is_refused(strength, embeddings, message):
    with pytest.raises(ValueError, match=message):
        check_pull(strength, embeddings)


def moved(zero_dir, folder, **changes):
    """Returns how far the old and the new rows are from their start after a run."""
    fit.main(args(zero_dir, folder, "demo_pretrain", **SHORT, **changes))
    return distances(zero_dir, folder)


def distances(zero_dir, folder):
    start, tensors = load_model(zero_dir, torch.float32), TrainedState.open(folder / "run").tensors
    ours = [tensors[f"{name}.weight"].read_all() for name in ("model.embed_tokens", "lm_head")]
    theirs = start.model.embed_tokens.weight, start.lm_head.weight
    both = [(our - their.detach()).abs() for our, their in zip(ours, theirs, strict=True)]
    return [part.mean() for change in both for part in (change[:2509], change[2509:])]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_a_run_old_rows_stay_closer_to_their_start_and_new_rows_move_as_far(accumulate, zero_dir, tmp_path):
    free, pulled = (
        moved(zero_dir, tmp_path / str(strength), **{
            "model.init_args.embedding_pull": strength, "trainer.accumulate_grad_batches": accumulate
        })
        for strength in (0, 500)
    )  # fmt: skip
    for old, new in ((0, 1), (2, 3)):
        assert pulled[old] < 0.7 * free[old] and pulled[new] > 0.9 * free[new]


@pytest.mark.slow
def test_zero2_pulls_what_one_device_pulls(zero_dir, tmp_path):
    pull = {"model.init_args.embedding_pull": 500, "data.init_args.batch_size": 2}
    one = moved(zero_dir, tmp_path / "one", **pull, **{"trainer.accumulate_grad_batches": 2})
    zero2 = {"trainer.strategy": json.dumps({"class_path": "lit_modules.ZeRO2"}), "trainer.devices": 2}
    more = {"trainer.accumulate_grad_batches": 1}
    done = command(args(zero_dir, tmp_path / "two", "demo_pretrain", **SHORT, **pull, **zero2, **more))
    assert done.returncode == 0, done.stderr
    # Adam turns rounding of small gradients into whole steps; without a pull, old rows move 1.4 times as far or more
    torch.testing.assert_close(distances(zero_dir, tmp_path / "two"), one, rtol=1e-2, atol=0)
