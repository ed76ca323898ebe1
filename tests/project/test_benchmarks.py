import importlib
from pathlib import Path

import pytest

from benchmarks.harness.tables import Figures

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
SCRIPTS = [name for name in MODULES if "def main(" in (ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")]
# other software, in an environment of its own, that a benchmark starts
PEERS = {
    "benchmarks.tokenizer.tokenizer_extension_peer": "benchmarks.tokenizer.peer",
    "benchmarks.data.llamafactory_peer": "benchmarks.data.token_store",
    "benchmarks.training.llamafactory_sft_peer": "benchmarks.training.sft_throughput",
}
COMMANDS = {name.removesuffix(".__main__") for name in SCRIPTS}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_the_benchmarks_can_be_imported(name):
    importlib.import_module(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_answers_help_and_names_its_command(name, capsys):
    module = importlib.import_module(name)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    command = PEERS.get(name) or name.removesuffix(".__main__")
    assert f"python -m {command}" in module.__doc__
    assert "usage:" in capsys.readouterr().out


def test_every_benchmark_whose_command_the_results_show_exists():
    shown = {
        line.split()[2]
        for line in (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8").splitlines()
        if line.startswith("python -m benchmarks.")
    }
    assert shown
    assert shown <= COMMANDS


def test_names_in_a_table_of_figures_are_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    Figures("a [v2] of [/x]", ["[bold]run", ":car:"], [["[red]", "[/red]"]], ["note [x]"]).show()
    said = capsys.readouterr().out
    assert all(text in said for text in ("a [v2] of [/x]", "[bold]run", ":car:", "[red]", "[/red]", "note [x]"))
