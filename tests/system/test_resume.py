"""Runs and settings from which a run can be resumed, and those from which it cannot."""

import shutil
from collections import Counter

import pytest

from callbacks.ledger_report import LedgerReport
from glmja import fit
from glmja.build_tokenizer import build_tokenizer
from glmja.resize_embeddings import resize_embeddings
from glmja.runs import manifest
from glmja.twin import build as twin
from lit_modules import base
from tests.support.demo_run import KINDS, args, check_same, logged_twice, unbroken
from tests.support.file_reads import counted_opens, reads_of
from tests.support.programs import counting
from tests.support.programs.launch import run
from tests.support.recorder import records
from tests.support.tiny_run import scalars


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


def test_an_attempt_without_a_checkpoint_leaves_nothing_in_the_logs_of_the_next_one(zero_dir, tmp_path):
    early = args(zero_dir, tmp_path, "demo_sft", **{"trainer.max_steps": 3})
    fit.main([*early, "--trainer.callbacks+=tests.support.recorder.StopEarly", "--trainer.callbacks.at=3"])
    assert scalars(tmp_path / "run", "train/loss") and not (tmp_path / "run" / "checkpoints").exists()
    fit.main(early)
    assert not logged_twice(tmp_path)


def test_a_run_resumed_from_an_older_checkpoint_drops_the_logs_of_later_steps(zero_dir, tmp_path):
    whole = unbroken(zero_dir, "one_rank", "demo_sft")
    shutil.copytree(whole / "run", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step=4.ckpt"
    shorter = args(zero_dir, tmp_path, "demo_sft", **{"trainer.max_steps": 5, "checkpoint.save_top_k": 0})
    fit.main([*shorter, f"--ckpt_path={checkpoint}"])
    losses = scalars(tmp_path / "run", "train/loss")
    assert list(losses) == [*range(5)]
    assert {step: scalars(whole / "run", "train/loss")[step] for step in range(4)} == {s: losses[s] for s in range(4)}
    assert not logged_twice(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.init_args.val_share": 0.3}, "; take sources, weights, row length, batch size, accumulation "),
        (
            {"data.init_args.seed": 1},
            "; take sources, weights, row length, batch size, accumulation and seed from",
        ),
        (
            {"data.init_args.row_len": 64},
            "; take sources, weights, row length, batch size, accumulation and seed from",
        ),
        (
            {"trainer.accumulate_grad_batches": 1},
            "was saved with micro_batches_per_step 2, this run has 1; set --trainer.accumulate_grad_batches so that",
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


class Hashes:
    """Counts the files that are hashed before the first step of a run."""

    def __init__(self, monkeypatch):
        self.before_training, self.training = Counter(), False
        monkeypatch.setattr(manifest, "sha256_of_file", self.hashed(manifest.sha256_of_file))
        monkeypatch.setattr(LedgerReport, "on_train_start", self.started)

    def hashed(self, hash_file):
        def counting(path):
            if not self.training:
                self.before_training[path] += 1
            return hash_file(path)

        return counting

    def started(self, *_):
        self.training = True


@pytest.mark.parametrize("path", ["last", "step=2.ckpt"])
def test_a_resume_hashes_its_checkpoint_once_and_opens_its_model_once(zero_dir, tmp_path, monkeypatch, path):
    few = {"trainer.limit_val_batches": 0, "trainer.callbacks": "[]"}
    fit.main(args(zero_dir, tmp_path, "demo_sft", **few, **{"trainer.max_steps": 2}))
    checkpoint = tmp_path / "run" / "checkpoints" / "step=2.ckpt"
    hashes = Hashes(monkeypatch)
    with counted_opens() as opens:
        more = args(zero_dir, tmp_path, "demo_sft", **few, **{"trainer.max_steps": 3})
        fit.main([*more, f"--ckpt_path={'last' if path == 'last' else checkpoint}"])
    assert hashes.training
    assert hashes.before_training == {checkpoint / "state.ckpt": 1}
    assert reads_of(opens, zero_dir) == (1, 1)


def test_of_two_ranks_one_hashes_checkpoint_and_sources(zero_dir, tmp_path):
    whole = unbroken(zero_dir, "zero2_fp32", "demo_pretrain")
    shutil.copytree(whole / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step=7.ckpt")
    arguments = [*args(zero_dir, tmp_path, "demo_pretrain", **KINDS["zero2_fp32"]), "--ckpt_path=last"]
    code, output = run(tmp_path / "output", counting.main, arguments, str(tmp_path / "hashed"), ranks=2)
    assert code == 0, output
    first, second = ((tmp_path / f"hashed.{rank}").read_text().split() for rank in (0, 1))
    saved = manifest.read(whole / "run" / "checkpoints" / "step=6.ckpt")
    of_checkpoint = [name for name in first if ".ckpt" in name]
    assert sorted(of_checkpoint) == sorted(
        str(tmp_path / "run" / "checkpoints" / "step=6.ckpt" / name) for name in saved.files
    )
    assert {str(twin.text_file(language)) for language in twin.LANGUAGES} <= set(first)
    assert len(first) == len(set(first)) and not second
    check_same(tmp_path, whole)


def test_other_data_is_refused_before_the_weights_are_loaded(zero_dir, tmp_path, capsys, monkeypatch):
    last = manifest.newest(unbroken(zero_dir, "one_rank", "demo_pretrain") / "run" / "checkpoints")
    monkeypatch.setattr(base, "load_model", lambda *_: pytest.fail("loads the weights"))
    with pytest.raises(SystemExit):
        fit.main([*args(zero_dir, tmp_path, "demo_pretrain", **{"data.init_args.seed": 1}), f"--ckpt_path={last}"])
    assert "was saved with data " in capsys.readouterr().err
