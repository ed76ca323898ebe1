import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from glmja import __main__ as glmja
from glmja import __version__

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_with_a_line(capsys):
    glmja.main([])
    said = capsys.readouterr().out
    modules = {path.stem for path in (ROOT / "glmja").glob("*.py")} - {"__init__", "__main__", "errors"}
    assert {name.replace("-", "_") for name in glmja.COMMANDS} == modules
    assert all(f"  {name} " in said for name in glmja.COMMANDS)
    glmja.main(["--help"])
    assert capsys.readouterr().out == said


def test_the_version_is_printed(capsys):
    glmja.main(["--version"])
    assert capsys.readouterr().out == f"glmja {__version__}\n"


@pytest.mark.parametrize("name", ["resize-embeddings", "resize_embeddings"])
def test_a_command_gets_its_arguments(name, monkeypatch):
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
