import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmja import __main__ as glmja
from glmja import __version__
from glmja.runs import manifest
from tests.support.demo_run import args

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_every_command_is_listed_with_a_line(capsys):
    glmja.main([])
    said = capsys.readouterr().out
    modules = {path.stem for path in (ROOT / "glmja").glob("*.py")} - {"__init__", "__main__", "errors"} | {"demo"}
    assert {name.replace("-", "_") for name in glmja.COMMANDS} == modules
    assert all(f"  {name} " in said for name in glmja.COMMANDS)
    glmja.main(["--help"])
    assert capsys.readouterr().out == said


def test_the_version_is_printed(capsys):
    glmja.main(["--version"])
    assert capsys.readouterr().out == f"glmja {__version__}\n"


@pytest.mark.parametrize("name", ["resize-embeddings", "resize_embeddings"])
def test_a_command_receives_its_arguments(name, monkeypatch):
    given = []
    monkeypatch.setattr(importlib.import_module("glmja.resize_embeddings"), "main", given.append)
    assert glmja.main([name, "--base", "x"]) is None
    assert given == [["--base", "x"]]


@pytest.mark.parametrize(
    ("name", "remedy"), [("exprot", "did you mean export?"), ("xyz", "commands are build-tokenizer, resize-embeddings")]
)
def test_an_unknown_command_is_refused_in_one_line(name, remedy, capsys):
    with pytest.raises(SystemExit, match="2"):
        glmja.main([name])
    said = capsys.readouterr().err
    assert said.startswith(f"python -m glmja: error: no command '{name}'; {remedy}") and said.count("\n") == 1


def test_errors_name_the_command_as_it_was_called():
    command = [sys.executable, "-m", "glmja", "resize-embeddings", "--base", "gone"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m glmja resize-embeddings: error: ")


@pytest.fixture
def script(tmp_path):
    """The script that pip writes for the entry point."""
    path = tmp_path / "bin" / "glmja"
    path.parent.mkdir()
    path.write_text("import sys\nfrom glmja.__main__ import main\nsys.exit(main())\n")
    return path


def test_the_entry_point_of_the_package_is_this_command():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.entry_points"]["console_scripts"].split() == ["glmja", "=", "glmja.__main__:main"]


def test_the_script_names_itself_in_errors(script):
    command = [sys.executable, str(script), "exports"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "glmja: error: no command 'exports'; did you mean export?\n")


@pytest.mark.parametrize("started", ["script", pytest.param("module", marks=pytest.mark.slow)])
def test_lightning_starts_the_processes_of_a_run_with_the_same_command(started, script, zero_dir, tmp_path):
    command = [sys.executable, *([str(script)] if started == "script" else ["-m", "glmja"]), "fit"]
    ranks = {"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.max_steps": 1, "trainer.callbacks": "[]"}
    arguments = args(zero_dir, tmp_path, "demo_sft", **ranks, **{"trainer.limit_val_batches": 0})
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr + done.stdout
    assert manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).identity.world_size == 2
