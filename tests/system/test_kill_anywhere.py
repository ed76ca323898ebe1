"""A run that is killed anywhere and resumed is bit-identical to an uninterrupted one.

Compared are batches, losses, learning rates, validations, chats and the final state. `pytest -m "slow or not slow"`
tries every point; otherwise two are drawn by date.
"""

import signal

import pytest

from glmja.runs import manifest
from tests.support.daily import of_the_day
from tests.support.demo_run import (
    ACCUMULATE,
    KINDS,
    NUM_BATCHES,
    RECIPE_OF_THE_DAY,
    RECIPES,
    SAVE_EVERY,
    check_same,
    forked,
    num_ranks,
    recorder,
    unbroken,
)
from tests.support.recorder import records

POINTS = [
    (kind, recipe, killed)
    for kind in KINDS
    for i, recipe in enumerate(RECIPES)
    for killed in (range(3 + i, NUM_BATCHES + 1, 2) if kind == "zero2_bf16" else range(1, NUM_BATCHES + 1))
]
# step, file operations of the first process before the kill, is the last file cut, step of the newest complete save
IN_SAVE = [
    *(
        ("one_rank", *point)
        for point in [(4, 1, True, 2), (4, 1, False, 2), (4, 3, False, 2), (4, 4, False, 2), (4, 5, False, 4),
                      (6, 7, False, 6)]
    ),
    *(
        ("zero2_fp32", *point)
        for point in [(4, 1, True, 2), (4, 1, False, 2), (4, 2, False, 2), (4, 9, False, 2), (4, 11, False, 2),
                      (4, 12, False, 4)]
    ),
]  # fmt: skip


TOO_SLOW = ("zero2_bf16", "retention")  # for the default run: a minute on processors without bf16 instructions


# of one and of two ranks, one is killed after a micro-batch and one during a save
AFTER_A_BATCH_ON_TWO = of_the_day("killed on two ranks").random() < 0.5


def draw(family, points, on_two):
    """Marks all points slow but one of the day, with the recipe of the day if that is quick enough."""
    quick = [point for point in points if point[:2] != TOO_SLOW and (point[0] != "one_rank") == on_two]
    same = [point for point in quick if RECIPE_OF_THE_DAY in point]
    drawn = of_the_day(family).choice(same or quick)
    return [pytest.param(*point, marks=[] if point == drawn else pytest.mark.slow) for point in points]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "recipe", "killed"), draw("after a batch", POINTS, AFTER_A_BATCH_ON_TWO))
def test_a_run_killed_after_any_micro_batch_resumes_identically(zero_dir, tmp_path, kind, recipe, killed):
    run = zero_dir, tmp_path, kind, recipe
    code, output = forked(*run, callback=recorder(tmp_path, kill_at=killed))
    assert code == -signal.SIGKILL, output
    before = [records(tmp_path / "record", rank) for rank in range(num_ranks(kind))]
    assert max(before[0]) == killed - 1
    for rank in range(num_ranks(kind)):
        (tmp_path / f"record.{rank}").unlink(missing_ok=True)
    in_save = SAVE_EVERY * ACCUMULATE
    saved = (killed - 1) // in_save * in_save  # the kill comes before a save at the same micro-batch
    code, output = forked(*run, "--ckpt_path=last")
    if not saved:
        assert code == 2
        assert "no complete checkpoint in" in output
        code, output = forked(*run)
    assert code == 0, output
    whole = unbroken(zero_dir, kind, recipe)
    for rank in range(num_ranks(kind)):
        after = records(tmp_path / "record", rank)
        assert sorted(after) == [*range(saved, NUM_BATCHES)]  # it was resumed
        kept = {i: record for i, record in before[rank].items() if i < saved}
        assert kept | after == records(whole / "record", rank)
    check_same(tmp_path, whole)
    assert names(tmp_path / "run" / "checkpoints") == names(whole / "run" / "checkpoints")


@pytest.mark.parametrize(
    ("kind", "step", "acts", "tear", "newest"), draw("in a save", IN_SAVE, not AFTER_A_BATCH_ON_TWO)
)
def test_a_run_killed_during_a_save_resumes_from_the_newest_complete_checkpoint(
    zero_dir, tmp_path, kind, step, acts, tear, newest
):
    run = zero_dir, tmp_path, kind, RECIPE_OF_THE_DAY
    killer = {
        "class_path": "tests.support.recorder.KillInSave",
        "init_args": {"step": step, "acts": acts, "tear": tear},
    }
    code, output = forked(*run, callback=killer)
    assert code == -signal.SIGKILL, output
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints.glob(f"{manifest.PARTIAL}*")] == {
        2: ["".join([manifest.PARTIAL, "step=4.ckpt"])], 4: [], 6: [f"{manifest.PARTIAL}removed-step=2.ckpt"]
    }[newest]  # fmt: skip
    code, output = forked(*run, "--ckpt_path=last")
    assert code == 0, output
    whole = unbroken(zero_dir, kind, RECIPE_OF_THE_DAY)
    for rank in range(num_ranks(kind)):
        after = records(tmp_path / "record", rank)
        assert min(after) == newest * ACCUMULATE
        assert after == {i: record for i, record in records(whole / "record", rank).items() if i in after}
    check_same(tmp_path, whole, unlogged=newest)
    assert names(checkpoints) == names(whole / "run" / "checkpoints")
