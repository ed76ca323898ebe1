"""What is wrong decides the exit code; every message is one line, without a traceback."""

import json
import shutil

import pytest

from glmja import build_tokenizer, evaluate, export, fit, resize_embeddings
from glmja.command import one_line_errors
from glmja.errors import DataError, MachineError, ModelError
from glmja.twin import text_file

USAGE, DATA, MODEL, MACHINE = 2, 3, 4, 5


@pytest.fixture
def refused(capsys):
    def run(verb, *args):
        with pytest.raises(SystemExit) as stop:
            verb.main([str(arg) for arg in args])
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said
        return stop.value.code, said

    return run


@pytest.fixture
def broken(zero_dir, tmp_path):
    """A copy of the Zero model."""
    return shutil.copytree(zero_dir, tmp_path / "broken")


def fit_args(model_dir, tmp_path, file, **more):
    sources = json.dumps([{"name": "x", "lang": "ja", "files": [str(file)]}])
    values = {"config": "configs/demo_pretrain.yaml", "run_dir": tmp_path / "run", "trainer.accelerator": "cpu",
              "model.init_args.model_dir": model_dir, "data.init_args.sources": sources,
              "data.init_args.cache_dir": tmp_path / "cache"} | more  # fmt: skip
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("options", [["--max_stepz=3"], ["--trainer.max_steps=many"], ["--data.init_args.row_len=0"]])
def test_a_wrong_command_line_is_2(refused, zero_dir, tmp_path, options):
    assert refused(fit, *fit_args(zero_dir, tmp_path, text_file("ja")), *options)[0] == USAGE


def test_a_path_that_is_not_there_is_2(refused, zero_dir, tmp_path):
    assert refused(fit, *fit_args(zero_dir, tmp_path, "nowhere.jsonl"))[0] == USAGE
    assert refused(resize_embeddings, "--base=nowhere", "--tokenizer=nowhere", f"--output={tmp_path}/out")[0] in (2, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "\xff"}\n', r"bad.jsonl:1"),
        (b'{"text": "a"}\n{"txt": "b"}\n', "bad.jsonl:2"),
        (b'{"text": 5}\n', "bad.jsonl:1"),
        (b'{"text": "a"}\n{"text": "b', "bad.jsonl:2"),
        (b"\n\n", "no text in"),
    ],
)
def test_data_that_cannot_be_used_is_3(refused, zero_dir, tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    code, said = refused(fit, *fit_args(zero_dir, tmp_path, tmp_path / "bad.jsonl"))
    assert code == DATA and message in said
    corpus = f"--corpus={tmp_path / 'bad.jsonl'}"
    code, said = refused(build_tokenizer, f"--base={zero_dir}", corpus, f"--output={tmp_path / 'out'}")
    assert code == DATA and message in said
    generate = ["--generate", f"ja={tmp_path / 'bad.jsonl'}", f"--output={tmp_path / 'out'}"]
    assert refused(evaluate, f"--model={zero_dir}", *generate)[0] == DATA


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b""),
        ("tokenizer.model", b"not a model"),
        ("tokenizer.model", None),
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b'{"model_type": "llama"}'),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
    ],
)
def test_a_damaged_model_is_4(refused, broken, tmp_path, name, content):
    if content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(content)
    code, said = refused(evaluate, f"--model={broken}", "--max_new_tokens=2", f"--output={tmp_path / 'out'}")
    assert code == MODEL and "broken" in said
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_none_is_4(refused, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step=1.ckpt").mkdir(parents=True)
    args = [f"--checkpoint={tmp_path}/run/checkpoints/step=1.ckpt", f"--output={tmp_path}/out"]
    assert refused(export, *args)[0] == MODEL


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), USAGE),
        (FileNotFoundError("x"), USAGE),
        (DataError("x"), DATA),
        (ModelError("x"), MODEL),
        (MachineError("x"), MACHINE),
        (ChildProcessError("x"), MACHINE),
        (OSError(28, "No space left on device"), MACHINE),
        (OSError(30, "Read-only file system"), MACHINE),
    ],
)
def test_each_kind_of_error_has_its_code(error, code, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors("python -m glmja.x"):
        raise error
    assert stop.value.code == code
    assert capsys.readouterr().err == f"python -m glmja.x: error: {error}\n"


def test_the_traceback_is_shown_when_asked_for(monkeypatch):
    monkeypatch.setenv("GLMJA_DEBUG", "1")
    with pytest.raises(DataError, match="x"), one_line_errors("python -m glmja.x"):
        raise DataError("x")
