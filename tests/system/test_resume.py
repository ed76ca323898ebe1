"""Runs and settings from which a run can be resumed, and those from which it cannot."""

import pytest

from glmja import fit
from glmja.build_tokenizer import build_tokenizer
from glmja.resize_embeddings import resize_embeddings
from glmja.runs import manifest
from glmja.twin import build as twin
from tests.support.demo_run import args, check_same, unbroken
from tests.support.recorder import records


def test_a_run_resumes_with_another_number_of_workers(zero_dir, tmp_path):
    fit.main(args(zero_dir, tmp_path, "demo_sft", **{"trainer.max_steps": 4, "data.init_args.num_workers": 0}))
    more = args(zero_dir, tmp_path, "demo_sft", **{"data.init_args.num_workers": 1})
    fit.main([*more, "--ckpt_path=last"])
    batches = {i: record[2] for i, record in records(tmp_path / "record").items()}
    whole = records(unbroken(zero_dir, "one_rank", "demo_sft") / "record")
    assert batches == {i: record[2] for i, record in whole.items()}


def test_nothing_is_saved_between_the_micro_batches_of_a_step(zero_dir, tmp_path):
    early = args(zero_dir, tmp_path, "demo_sft")
    fit.main([*early, "--trainer.callbacks+=tests.support.recorder.StopEarly", "--trainer.callbacks.at=7"])
    assert records(tmp_path / "record")[6][1] == 3
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step=2.ckpt"]


def test_a_run_ended_by_max_time_or_early_stopping_resumes(zero_dir, tmp_path):
    early = args(zero_dir, tmp_path, "demo_pretrain")
    fit.main([*early, "--trainer.callbacks+=tests.support.recorder.StopEarly", "--trainer.callbacks.at=5"])
    assert max(records(tmp_path / "record")) == 4  # within the third step, whose gradients are lost
    assert manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).step == 2
    fit.main([*early, "--ckpt_path=last"])
    whole = unbroken(zero_dir, "one_rank", "demo_pretrain")
    assert records(tmp_path / "record") == records(whole / "record")
    check_same(tmp_path, whole)


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
def test_a_checkpoint_of_another_run_is_refused(zero_dir, tmp_path, capsys, changes, message):
    last = manifest.newest(unbroken(zero_dir, "one_rank", "demo_pretrain") / "run" / "checkpoints")
    with pytest.raises(SystemExit) as stop:
        fit.main([*args(zero_dir, tmp_path, "demo_pretrain", **changes), f"--ckpt_path={last}"])
    assert stop.value.code == 4
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()  # the corrected command may use the folder


def test_a_checkpoint_of_another_base_or_tokenizer_is_refused(zero_dir, base_dir, tokenizer_dir, tmp_path, capsys):
    last = manifest.newest(unbroken(zero_dir, "one_rank", "demo_pretrain") / "run" / "checkpoints")
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
