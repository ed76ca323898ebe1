"""`~` and `$HOME` mean the home folder in every path that a user gives, and nowhere else."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from glmja.cli.home_paths import expand_arguments, expand_home
from glmja.cli.parser import CliParser

HOME = str(Path.home())


@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}"])
def test_the_home_folder_is_expanded_at_the_start_of_a_path(start):
    assert expand_home(f"{start}/a") == f"{HOME}/a"
    assert expand_home(start) == HOME
    assert expand_home(f"ja={start}/a.txt") == f"ja={HOME}/a.txt"
    assert expand_arguments([f"--base={start}/a", "--corpus", f"{start}/b"]) == [
        f"--base={HOME}/a",
        "--corpus",
        f"{HOME}/b",
    ]


@pytest.mark.parametrize("text", ["a~", "~a", "$HOMEa", "日本~/x", "a ~/b", "", 3, None, Path("~/a")])
def test_other_values_stay(text):
    assert expand_home(text) == text


def test_paths_inside_lists_and_classes_are_expanded_and_prompts_are_not():
    source = {"name": "x", "files": ["~/a.jsonl"], "prompts": ["~/ とは"]}
    config = expand_home(Namespace(data=Namespace(sources=[source], cache_dir="$HOME/c"), system="~/ x"))
    assert config.data.sources == [{"name": "x", "files": [f"{HOME}/a.jsonl"], "prompts": ["~/ とは"]}]
    assert config.data.cache_dir == f"{HOME}/c"
    assert config.system == "~/ x"
    assert expand_arguments(["--prompts", "~/ とは"]) == ["--prompts", "~/ とは"]


def test_a_parser_expands_paths_of_files_and_flags(tmp_path):
    parser = CliParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--run_dir", type=str)
    parser.add_argument("--other", type=str)
    (tmp_path / "a.yaml").write_text("run_dir: ~/runs/x\n")
    parsed = parser.parse_args([f"--config={tmp_path / 'a.yaml'}", "--other=$HOME/y"])
    assert (parsed.run_dir, parsed.other) == (f"{HOME}/runs/x", f"{HOME}/y")
