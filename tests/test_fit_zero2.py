"""The real command on two processes under ZeRO-2, against one process that does the same work."""

import json
import signal

import pytest
from recorder import records
from test_resume import args, command
from torch import equal, load
from torch.testing import assert_close

from glmja import fit, manifest
from glmja.export import main as export
from glmja.weight_files import open_weights

STEPS = 4


def two_ranks(zero_dir, folder, **others):
    changes = {
        "trainer.strategy": json.dumps({"class_path": "lit_modules.ZeRO2"}),
        "trainer.devices": 2,
        "trainer.max_steps": STEPS,
    }
    return args(zero_dir, folder, "demo_pretrain", **changes, **others)


@pytest.fixture(scope="module")
def runs(zero_dir, tmp_path_factory):
    """One process with twice the accumulation, and two processes; both clip, and neither drops anything out."""
    folder = tmp_path_factory.mktemp("zero2")
    folders = [folder / "one", folder / "two"]
    for each in folders:
        each.mkdir()
    same = {"model.init_args.lora.dropout": 0.0, "trainer.gradient_clip_val": 0.5}
    fit.main(args(zero_dir, folders[0], "demo_pretrain", **same,
                  **{"trainer.max_steps": STEPS, "trainer.accumulate_grad_batches": 4}))  # fmt: skip
    done = command(two_ranks(zero_dir, folders[1], **same))
    assert done.returncode == 0, done.stderr
    return folders


def test_two_ranks_under_zero2_do_what_one_process_does(runs):
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


def test_both_come_out_with_the_same_weights(runs, tmp_path):
    exported = []
    for folder in runs:
        export(["--checkpoint", str(folder / "run"), "--output", str(tmp_path / folder.name)])
        exported.append(open_weights(tmp_path / folder.name))
    assert exported[0].keys() == exported[1].keys()
    for name in exported[0]:
        assert_close(exported[0][name].read_all().float(), exported[1][name].read_all().float(), rtol=0, atol=2e-3)


def test_both_report_the_same_losses(runs):
    ledgers = [json.loads((folder / "run" / "ledger.json").read_text()) for folder in runs]
    assert ledgers[0]["sources"] == ledgers[1]["sources"]
    assert [ledger["run"]["optimizer_steps"] for ledger in ledgers] == [STEPS, STEPS]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [5, 6, 7])
def test_a_killed_run_of_two_ranks_goes_on_as_if_it_had_not_been(zero_dir, tmp_path, kill_at):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert command(two_ranks(zero_dir, whole)).returncode == 0
    assert command(two_ranks(zero_dir, killed, kill_at=kill_at)).returncode == -signal.SIGKILL
    resumed = command([*two_ranks(zero_dir, killed), "--ckpt_path=last"])
    assert resumed.returncode == 0, resumed.stderr
    assert [records(killed / "record", rank) for rank in (0, 1)] == [records(whole / "record", rank) for rank in (0, 1)]
    states = [
        manifest.newest(folder / "run" / "checkpoints") / "checkpoint" / "mp_rank_00_model_states.pt"
        for folder in (whole, killed)
    ]
    modules = [load(state, weights_only=True)["module"] for state in states]
    assert all(equal(modules[0][name], modules[1][name]) for name in modules[0])
