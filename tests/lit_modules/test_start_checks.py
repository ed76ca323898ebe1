import json
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from glmja import fit
from glmja.runs.run_folder import RunFolder
from lit_modules.start_checks import Problems, check_gpus, check_new_run, clean_up_on_failure
from tests.support.demo_run import args


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        fit.main(arguments)
    return ended.value.code, capsys.readouterr().err.splitlines()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_all_that_is_missing_is_reported_together(zero_dir, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    sources = [{"name": name, "lang": "ja", "files": [f"{name}1.txt", f"{name}2.txt"]} for name in ("a", "b")]
    changes = {"trainer.accelerator": "gpu", "trainer.devices": 4, "data.init_args.sources": json.dumps(sources)}
    code, said = refused(args(zero_dir, tmp_path, "demo_pretrain", **changes), capsys)
    assert code == 5 and len(said) == 4
    assert (
        "trainer.accelerator is gpu, and torch finds no GPU on this machine; start the run on one with GPUs" in said[0]
    )
    assert f"--run_dir {run} holds a model; choose a new folder for the run" in said[1]
    assert said[2].endswith("no such file: a1.txt; no such file: a2.txt")
    assert said[3].endswith("no such file: b1.txt; no such file: b2.txt")


def test_files_are_looked_for_even_if_the_model_is_missing(tmp_path, capsys):
    sources = json.dumps([{"name": "a", "lang": "ja", "files": ["gone.txt"]}])
    changes = {"data.init_args.sources": sources}
    code, said = refused(args(Path("/nowhere/zero"), tmp_path, "demo_pretrain", **changes), capsys)
    assert code == 2 and len(said) == 2
    assert "no such folder: /nowhere/zero" in said[0] and said[1].endswith("no such file: gone.txt")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_its_first_step_leaves_nothing_behind(zero_dir, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("日本語の文書です。\n")
    sources = json.dumps([{"name": "one", "lang": "ja", "files": [str(tmp_path / "one.txt")]}])
    _, said = refused(args(zero_dir, tmp_path, "demo_pretrain", **{"data.init_args.sources": sources}), capsys)
    assert "source 'one' has 1 document" in said[-1]  # known when the data are set up, after TensorBoard is opened
    assert not (tmp_path / "run").exists()


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "kept").write_text("")
    for started, left in ((True, {"kept", "new", "new/file"}), (False, {"kept"})):
        with pytest.raises(KeyboardInterrupt), clean_up_on_failure(tmp_path, lambda: started):  # noqa: B023
            (tmp_path / "new").mkdir(exist_ok=True)
            (tmp_path / "new" / "file").write_text("")
            raise KeyboardInterrupt
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == left
        for name in ("file", ""):
            path = tmp_path / "new" / name
            if path.exists():
                path.unlink() if path.is_file() else path.rmdir()


def test_problems_are_flat_and_without_repetitions():
    problems = Problems()
    problems.raise_any()
    with problems.collected():
        raise ExceptionGroup("", [ValueError("a"), ExceptionGroup("", [OSError("b"), ValueError("a")])])
    with pytest.raises(ExceptionGroup) as caught:
        problems.raise_any()
    assert [str(error) for error in caught.value.exceptions] == ["a", "b"]
    with pytest.raises(ZeroDivisionError), problems.collected():  # a bug is no problem of the input
        _ = 1 / 0


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("auto", 2, "2", -1, [0, 1]):
        check_gpus(Namespace(accelerator="gpu", devices=devices))
    with pytest.raises(OSError, match="`devices` asks for 4 GPUs, and torch finds 2 on this machine; lower it"):
        check_gpus(Namespace(accelerator="cuda", devices="4"))
    check_gpus(Namespace(accelerator="cpu", devices=4))


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_new_run_refuses_a_folder_with_other_files(tmp_path):
    write(*(tmp_path / name for name in ("tokenizer.model", "tokenizer_config.json", "added/x", "notes.txt")))
    with pytest.raises(
        ValueError, match=r"holds other files \(added, notes.txt, tokenizer.model, …\); choose a new fo"
    ):
        check_new_run(RunFolder(tmp_path), Namespace())
    (tmp_path / "config.yaml").touch()  # a run failed before its first checkpoint
    check_new_run(RunFolder(tmp_path), Namespace())


def test_a_new_run_may_find_logs_and_what_its_configuration_names(tmp_path):
    run = tmp_path / "run"
    check_new_run(RunFolder(run), Namespace())
    write(*(run / name for name in (".lock", "fit.log", "slurm-7.out", "store/ja/tokens.bin", "ja.jsonl", "fit.yaml")))
    sources = [{"name": "ja", "files": [str(run / "ja.jsonl")]}]
    config = Namespace(config=[run / "fit.yaml"], data=Namespace(cache_dir=f"{run}/store/ja", sources=sources))
    check_new_run(RunFolder(run), config)
    with pytest.raises(ValueError, match=r"holds other files \(ja.jsonl, store\)"):
        check_new_run(RunFolder(run), Namespace(config=config.config))


def test_a_new_run_is_not_within_a_run_or_a_model(tmp_path):
    write(tmp_path / "config.json", tmp_path / "run" / "checkpoints" / "step=1.ckpt" / "manifest.json")
    check_new_run(RunFolder(tmp_path / "other"), Namespace())  # many programs have a config.json
    for inner in ("more", "checkpoints/step=1.ckpt/more"):
        with pytest.raises(ValueError, match=f"more is within the folder of a run, {tmp_path}/run; choose one outside"):
            check_new_run(RunFolder(tmp_path / "run" / inner), Namespace())
    write(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"runs/a is within the folder of a model, {tmp_path}; choose one outside of"):
        check_new_run(RunFolder(tmp_path / "runs" / "a"), Namespace())
