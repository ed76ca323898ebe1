"""The command on two processes under ZeRO-2, compared with one process that does the same work."""

import json

import pytest
from torch.testing import assert_close

from glmja import fit
from glmja.export import main as export
from glmja.weights.weight_files import open_weights
from tests.support.demo_run import TWO_RANKS, args
from tests.support.programs.launch import run
from tests.support.recorder import records

STEPS = 4


@pytest.fixture(scope="module")
def runs(zero_dir, tmp_path_factory):
    """Runs one process with twice the accumulation, and two processes; both clip, neither has dropout."""
    folder = tmp_path_factory.mktemp("zero2")
    folders = [folder / "one", folder / "two"]
    for each in folders:
        each.mkdir()
    same = {"model.init_args.lora.dropout": 0.0, "trainer.gradient_clip_val": 0.5}
    fit.main(args(zero_dir, folders[0], "demo_pretrain", **same,
                  **{"trainer.max_steps": STEPS, "trainer.accumulate_grad_batches": 4}))  # fmt: skip
    two = args(zero_dir, folders[1], "demo_pretrain", **same, **TWO_RANKS, **{"trainer.max_steps": STEPS})
    code, output = run(folder / "output", fit.main, two, ranks=2)
    assert code == 0, output
    return folders


def test_two_ranks_under_zero2_compute_the_losses_of_one_process(runs):
    one, two = runs
    alone, together = records(one / "record"), [records(two / "record", rank) for rank in (0, 1)]
    for i in range(2 * STEPS):
        for rank in (0, 1):
            ours, theirs = together[rank][i], alone[2 * i + rank]
            assert ours[2] == theirs[2]  # the same rows
            # Lightning divides by the accumulation, which is twice as long in one process
            assert float.fromhex(ours[3]) == pytest.approx(2 * float.fromhex(theirs[3]), rel=2e-5)
    rates = [[run[i][4] for i in sorted(run) if i % each == each - 1] for run, each in ((alone, 4), (together[0], 2))]
    assert rates[0] == rates[1]


@pytest.mark.usefixtures("forked_check")
def test_both_export_the_same_weights(runs, tmp_path):
    exported = []
    for folder in runs:
        export(["--checkpoint", str(folder / "run"), "--output", str(tmp_path / folder.name)])
        exported.append(open_weights(tmp_path / folder.name))
    assert exported[0].keys() == exported[1].keys()
    for name in exported[0]:
        assert_close(exported[0][name].read_all().float(), exported[1][name].read_all().float(), rtol=0, atol=2e-3)


def test_both_write_the_same_ledger(runs):
    ledgers = [json.loads((folder / "run" / "ledger.json").read_text()) for folder in runs]
    assert ledgers[0]["sources"] == ledgers[1]["sources"]
    assert [ledger["run"]["optimizer_steps"] for ledger in ledgers] == [STEPS, STEPS]
