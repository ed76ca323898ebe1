"""Runs of ChatGLM-6B that are killed and resumed, on one process and under ZeRO-2."""

import signal

import pytest

from tests.support.demo_run import ACCUMULATE, NUM_BATCHES, SAVE_EVERY, check_same, forked, num_ranks, recorder
from tests.support.recorder import records

KILLED = 2 * SAVE_EVERY * ACCUMULATE + 3
MORE = {"demo_sft": ["--data.init_args.max_bad_share=0.2"]}  # some of the conversations have a system message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_rank", "zero2_fp32"])
@pytest.mark.parametrize("recipe", ["demo_pretrain", "demo_sft", "retention"])
def test_a_killed_run_resumes_identically(kind, recipe, chatglm1_dir, tmp_path):
    whole, more = tmp_path / "whole", MORE.get(recipe, [])
    whole.mkdir()
    code, output = forked(chatglm1_dir, whole, kind, recipe, *more)
    assert code == 0, output
    run = chatglm1_dir, tmp_path, kind, recipe, *more
    code, output = forked(*run, callback=recorder(tmp_path, kill_at=KILLED))
    assert code == -signal.SIGKILL, output
    for rank in range(num_ranks(kind)):
        (tmp_path / f"record.{rank}").unlink(missing_ok=True)
    code, output = forked(*run, "--ckpt_path=last")
    assert code == 0, output
    for rank in range(num_ranks(kind)):
        after, wanted = records(tmp_path / "record", rank), records(whole / "record", rank)
        assert sorted(after) == [*range(2 * SAVE_EVERY * ACCUMULATE, NUM_BATCHES)]
        assert after == {i: wanted[i] for i in after}
    check_same(tmp_path, whole)
    losses = [float.fromhex(record[3]) for record in records(whole / "record").values()]
    assert sum(losses[-4:]) < sum(losses[:4])
