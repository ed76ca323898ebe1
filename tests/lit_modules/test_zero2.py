import json
import os
import shutil
from pathlib import Path

import pytest

from glmja.runs import manifest
from lit_modules.zero2 import ZeRO2
from tests.support.damages import flip
from tests.support.programs import equivalence
from tests.support.programs.launch import run
from tests.support.programs.toy_runs import check_same, newest, stop, train

CONFIGURATIONS = [{"accumulate": a, "clip": c} for a in (1, 4) for c in (0.0, 0.1)]
HALF = {"accumulate": 4, "clip": 0.1, "precision": "bf16-mixed"}


def shared_memory():
    return set(Path("/dev/shm").glob("deepspeed*"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_zero2_trains_like_one_process_of_plain_torch_on_the_same_batches(tmp_path, ranks):
    before = shared_memory()
    configurations = [
        *CONFIGURATIONS,
        HALF,
        *[{"accumulate": 4, "clip": 0.1, "offload_optimizer": True}] * (ranks == 1),
    ]
    output = tmp_path / "results.json"
    options = {"ranks": ranks, "configurations": configurations, "output": output}
    code, text = run(tmp_path / "log", equivalence.main, options, ranks=ranks)
    assert code == 0, text
    for configuration, seen in zip(configurations, json.loads(output.read_text()), strict=True):
        half = "precision" in configuration
        assert seen["stage"] == 2
        mine, of_all = seen["partition"]
        assert mine == of_all == 6464 // ranks
        assert seen["sums"] == "torch.float32"
        assert seen["apart"] < (0.03 if half else 2e-5), configuration
        ours, theirs = seen["norms"]
        assert ours == pytest.approx(theirs, rel=2e-3 if half else 1e-4), configuration
        assert seen["rates"][0] == seen["rates"][1]
        assert len(ours) == len(seen["rates"][0]) == 5
    assert shared_memory() <= before


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A run on two ranks that is stopped and resumed, and the same run uninterrupted."""
    folder = tmp_path_factory.mktemp("zero2")
    straight, broken = ({"folder": folder / name, "strategy": "zero2", "ranks": 2} for name in ("straight", "broken"))
    stopped = stop(os.killpg, **broken)
    code, output = train(*(options | {"max_steps": stopped + 3} for options in (broken, straight)))
    assert code == 0, output
    return straight["folder"], broken["folder"], [(0, stopped), (stopped, None)]


def test_a_stopped_and_resumed_run_on_two_ranks_equals_an_uninterrupted_run(history):
    straight, broken, parts = history
    check_same(straight, broken, 2, parts)


def test_a_checkpoint_holds_the_trainable_parameters(history):
    checkpoint = newest(history[0])
    names = [name for name, _ in manifest.read(checkpoint).identity.trainable]
    assert names == ["a.weight", "b.weight", "embed.weight"]
    sizes = {name: entry["bytes"] for name, entry in manifest.read(checkpoint).files.items()}
    assert {"latest", "checkpoint/mp_rank_00_model_states.pt"} < sizes.keys()
    assert sum("optim_states" in name for name in sizes) == 2
    assert not list(checkpoint.parent.glob(f"{manifest.PARTIAL}*"))


def or_new_run(checkpoint):
    return f", or start a new run from it with `init_from` {checkpoint} and another `run_dir`"


def test_a_run_that_differs_and_a_damaged_checkpoint_are_refused_in_one_line(history, tmp_path):
    options = {"folder": tmp_path / "run", "strategy": "zero2", "max_steps": 6}
    saved = tmp_path / "run" / "checkpoints"
    last = {"resume": saved / "step=6.ckpt"}
    code, output = train(options | {"keep": 1})
    assert code == 0, output
    assert [path.name for path in saved.iterdir()] == ["step=6.ckpt"]  # that of step 3 was removed
    shutil.copytree(saved / "step=6.ckpt", saved / "flipped.ckpt")
    optimizer = saved / "flipped.ckpt" / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    flip(optimizer)
    two_ranks = newest(history[0])
    plain = {"folder": tmp_path / "plain", "strategy": "single", "max_steps": 3}
    code, output = train(
        plain,
        options | {"resume": tmp_path / "plain" / "checkpoints" / "step=3.ckpt"},
        options | {"resume": two_ranks},
        options | last | {"precision": "bf16-mixed"},
        options | last | {"order": "bac"},
        options | last | {"frozen": "b"},
        options | {"resume": optimizer.parents[1]},
        options | {"resume": saved / "gone.ckpt"},
        options | {"max_steps": 7},  # the damaged one is passed over
    )
    assert code == 0, output
    of_the_saved_run = (
        "use the model, the adapters and the trainable parameters of the saved run, or export it "
        f"(python -m glmja.export --checkpoint {last['resume']} --output MODEL) "
        "and start a new run with that `model_dir`"
    )
    assert [line for line in output.splitlines() if line.startswith("toy: error:")] == [
        f"toy: error: {tmp_path / 'plain' / 'checkpoints' / 'step=3.ckpt'} was not saved by ZeRO2; "
        "resume with the strategy that saved it",
        f"toy: error: {two_ranks} was saved with world_size 2, this run has 1; "
        f"this strategy resumes on as many devices as it was saved on; set `devices`{or_new_run(two_ranks)}",
        f"toy: error: {last['resume']} was saved with precision 32-true, this run has bf16-mixed; "
        f"set `precision` to the saved value{or_new_run(last['resume'])}",
        f"toy: error: {last['resume']} was saved with trainable parameter 0 a.weight [16, 16], this run has "
        f"b.weight [16, 16]; {of_the_saved_run}",
        f"toy: error: {last['resume']} was saved with trainable parameter 1 b.weight [16, 16], this run has "
        f"c.weight [16, 16]; {of_the_saved_run}",
        f"toy: error: {optimizer} is damaged: its content is not what was saved; use another checkpoint",
        f"toy: error: no such checkpoint: {saved / 'gone.ckpt'}; there are flipped.ckpt, step=6.ckpt",
    ]
    assert (output.count("EXIT 4"), output.count("EXIT 2")) == (6, 1)
    assert f"skipped a checkpoint: {optimizer} is damaged" in output
    assert newest(tmp_path / "run").name == "step=7.ckpt"


def test_a_save_on_a_full_disk_fails_with_one_line(tmp_path):
    code, output = train({"folder": tmp_path / "run", "strategy": "zero2", "max_steps": 3, "largest_file": 8_000})
    assert code == 5, output
    final = tmp_path / "run" / "checkpoints" / "step=3.ckpt"
    line = f"toy: error: {final} could not be written; is the disk full? Earlier checkpoints are complete: make room"
    assert [said for said in output.splitlines() if said.startswith(line)]
    assert "Traceback" not in output and not final.exists()


def test_a_gpu_machine_is_left_to_choose_its_accelerator(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    ZeRO2()
    assert "DS_ACCELERATOR" not in os.environ
