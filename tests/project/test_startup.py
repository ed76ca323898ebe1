"""`--help` and usage errors come without the libraries that take seconds to import."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daily import drawn_pairs

ROOT = Path(__file__).parents[2]
SLOW = {"torch", "transformers", "lightning", "torchmetrics", "peft", "datasets", "matplotlib", "deepspeed", "pandas"}
VERBS = ["build_tokenizer", "resize_embeddings", "fit", "export", "evaluate", "chat", "convert", "demo"]


def run(verb: str, *args: str) -> tuple[int, str, set[str]]:
    """Runs `python -m glmja.VERB`; returns its exit code, what it printed, and the slow libraries that it imported."""
    return measured(f"import runpy; runpy.run_module('glmja.{verb}', {{}}, '__main__')", *args)


def measured(statement: str, *args: str) -> tuple[int, str, set[str]]:
    """Runs a statement with arguments of the command line; returns as `run`."""
    program = f"import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules)); {statement}"
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said, _, loaded = done.stdout.rpartition("LOADED")
    return done.returncode, said + done.stderr, SLOW & set(loaded.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_no_slow_library(verb):
    code, said, slow = run(verb, "--help")
    assert (code, slow) == (0, set())
    assert f"usage: python -m glmja.{verb}" in said


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_the_program_glmja_imports_no_slow_library(verb):
    code, said, slow = measured("from glmja.__main__ import main; main()", verb, "--help")
    assert (code, slow) == (0, set())
    assert "usage: " in said


WRONG = [("--nonsense", "1"), ("--config", "nowhere.yaml"), ("--config", "setup.cfg")]


@pytest.mark.parametrize(("verb", "flag", "value"), drawn_pairs("usage", VERBS, WRONG))
def test_usage_errors_import_no_slow_library(verb, flag, value):
    code, said, slow = run(verb, flag, value)
    assert (code, slow) == (2, set())
    assert said.startswith(f"python -m glmja.{verb}: error: ")
