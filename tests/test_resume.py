"""Killed and resumed, a run is the run that was not: the same batches, losses, rates and weights, to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recorder import records

from glmja import fit, manifest, twin
from glmja.build_tokenizer import build_tokenizer
from glmja.resize_embeddings import resize_embeddings

ROOT = Path(__file__).parents[1]
NUM_STEPS, ACCUMULATE = 7, 2


def args(zero_dir, folder, recipe, kill_at=-1, **others):
    sources = {
        "demo_pretrain": [{"name": x, "lang": x, "files": [str(twin.text_file(x))]} for x in twin.LANGUAGES],
        "demo_sft": [{"name": "chats", "lang": "all", "files": [str(twin.text_file("conversations"))]}],
    }[recipe]
    values = {
        "config": ROOT / "configs" / f"{recipe}.yaml",
        "run_dir": folder / "run",
        "model.init_args.model_dir": zero_dir,
        "model.init_args.lora.dropout": 0.2,
        "data.init_args.sources": json.dumps(sources),
        "data.init_args.cache_dir": folder.parent / "cache",
        "data.init_args.row_len": 128,
        "data.init_args.num_workers": 2,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": NUM_STEPS,
        "trainer.accumulate_grad_batches": ACCUMULATE,
        "trainer.val_check_interval": 3,
        "trainer.limit_val_batches": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.callbacks": json.dumps([
            {"class_path": "callbacks.ValidationTable"},
            {"class_path": "callbacks.ChatSampler", "init_args": {"every_n_steps": 2, "max_new_tokens": 4}},
            {"class_path": "recorder.Recorder", "init_args": {"path": str(folder / "record"), "kill_at": kill_at}},
        ]),
        "checkpoint.every_n_train_steps": 2,
    } | others  # fmt: skip
    return [f"--{key}={value}" for key, value in values.items()]


def command(arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "glmja.fit", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(zero_dir, tmp_path_factory):
    """A run of each recipe that nobody killed."""
    folders = {}
    for recipe in ("demo_pretrain", "demo_sft"):
        folders[recipe] = tmp_path_factory.mktemp("resume") / recipe
        folders[recipe].mkdir()
        fit.main(args(zero_dir, folders[recipe], recipe))
    return folders


def final_weights(folder):
    path = manifest.newest(folder / "run" / "checkpoints")
    assert manifest.read(path).step == NUM_STEPS
    return torch.load(path / "state.ckpt", weights_only=True)["state_dict"]


def check_same(folder, unbroken, first_micro_batch):
    before, after = records(unbroken / "record"), records(folder / "record")
    assert sorted(before) == list(range(NUM_STEPS * ACCUMULATE))
    assert after == before
    assert first_micro_batch > 0  # it did resume
    ours, theirs = final_weights(folder), final_weights(unbroken)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("recipe", "kill_at"),
    [("demo_pretrain", 9), ("demo_sft", 6)]
    + [
        pytest.param(recipe, kill_at, marks=pytest.mark.slow)
        for recipe in ("demo_pretrain", "demo_sft")
        for kill_at in range(5, NUM_STEPS * ACCUMULATE)
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(zero_dir, tmp_path, unbroken, recipe, kill_at):
    done = command(args(zero_dir, tmp_path, recipe, kill_at))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max(records(tmp_path / "record")) == kill_at - 1
    killed_at = records(tmp_path / "record")
    (tmp_path / "record.0").unlink()
    fit.main([*args(zero_dir, tmp_path, recipe), "--ckpt_path=last"])
    resumed = records(tmp_path / "record")
    saved = (kill_at // ACCUMULATE) // 2 * 2 * ACCUMULATE  # micro-batches of the last checkpoint
    assert min(resumed) == saved
    with (tmp_path / "record.0").open("a") as file:
        file.writelines(json.dumps(killed_at[i]) + "\n" for i in range(saved))
    check_same(tmp_path, unbroken[recipe], min(resumed))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "chats.jsonl").read_text().splitlines()]
    theirs = (unbroken[recipe] / "run" / "chats.jsonl").read_text().splitlines()
    assert sorted(set(steps)) == sorted({json.loads(line)["step"] for line in theirs})
    assert len(steps) == len(theirs)


def test_a_run_goes_on_with_another_number_of_workers(zero_dir, tmp_path, unbroken):
    fit.main(args(zero_dir, tmp_path, "demo_sft", **{"trainer.max_steps": 4, "data.init_args.num_workers": 0}))
    more = args(zero_dir, tmp_path, "demo_sft", **{"data.init_args.num_workers": 1})
    fit.main([*more, "--ckpt_path=last"])
    batches = {i: record[2] for i, record in records(tmp_path / "record").items()}
    assert batches == {i: record[2] for i, record in records(unbroken["demo_sft"] / "record").items()}


def test_a_run_that_time_or_patience_ended_goes_on(zero_dir, tmp_path, unbroken):
    early = args(zero_dir, tmp_path, "demo_pretrain")
    fit.main([*early, "--trainer.callbacks+=recorder.StopEarly", "--trainer.callbacks.at=5"])
    assert max(records(tmp_path / "record")) == 4  # amid the third step, whose gradients are lost
    assert manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).step == 2
    fit.main([*early, "--ckpt_path=last"])
    check_same(tmp_path, unbroken["demo_pretrain"], 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.init_args.val_share": 0.3}, "; resume with the sources, weights, row_len, batch size, accumulation "),
        (
            {"data.init_args.seed": 1},
            "; resume with the sources, weights, row_len, batch size, accumulation and seed of",
        ),
        (
            {"data.init_args.row_len": 64},
            "; resume with the sources, weights, row_len, batch size, accumulation and seed of",
        ),
        (
            {"trainer.accumulate_grad_batches": 1},
            "; resume with the sources, weights, row_len, batch size, accumulation and seed of",
        ),
        ({"model.init_args.lora.rank": 4}, "was saved with lora {'rank': 16"),
        ({"model.init_args.embeddings": "frozen"}, "was saved with embeddings full, this run has frozen"),
        ({"trainer.precision": "bf16-mixed"}, "was saved with precision 32-true, this run has bf16-mixed"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(zero_dir, tmp_path, unbroken, capsys, changes, message):
    last = manifest.newest(unbroken["demo_pretrain"] / "run" / "checkpoints")
    with pytest.raises(SystemExit) as stop:
        fit.main([*args(zero_dir, tmp_path, "demo_pretrain", **changes), f"--ckpt_path={last}"])
    assert stop.value.code == 4
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()  # the corrected command may use the folder


def test_a_checkpoint_of_another_base_or_tokenizer_is_refused(base_dir, tokenizer_dir, tmp_path, unbroken, capsys):
    last = manifest.newest(unbroken["demo_pretrain"] / "run" / "checkpoints")
    resize_embeddings(str(base_dir), str(tokenizer_dir), str(tmp_path / "mean"), init="mean")
    build_tokenizer(
        str(base_dir),
        str(tmp_path / "tokenizer"),
        corpus=[str(twin.text_file("ja"))],
        num_new_pieces=600,
        policy="kana",
    )
    resize_embeddings(str(base_dir), str(tmp_path / "tokenizer"), str(tmp_path / "kana"))
    for folder, what in (("mean", "base"), ("kana", "base")):
        with pytest.raises(SystemExit):
            fit.main([*args(tmp_path / folder, tmp_path, "demo_pretrain"), f"--ckpt_path={last}"])
        assert f"was saved with {what} " in capsys.readouterr().err
