"""A command whose output nobody reads any more, as in `glmja | head -3`, ends quietly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmja.cli.closed_output import is_output_closed
from glmja.errors import ExitCode
from tests.support.demo_run import args as run_args
from tests.support.programs import command_line

ROOT = Path(__file__).parents[2]
VERBS = ["build_tokenizer", "resize_embeddings", "fit", "export", "evaluate", "chat", "convert", "demo"]


def run_unread(*args, also_errors=False):
    """Runs a module whose standard output is a pipe with a closed end; returns exit code and standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, args)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out if also_errors else subprocess.PIPE,
            check=False,
        )
    return done.returncode, (done.stderr or b"").decode()


@pytest.mark.parametrize("args", [[], ["--help"], ["--version"], ["export", "--help"]], ids=str)
def test_the_list_of_commands_ends_quietly(args):
    code, said = run_unread("glmja", *args)
    assert (code in (0, ExitCode.CLOSED_OUTPUT), said) == (True, "")  # argparse ignores that its help cannot be written


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_command_ends_quietly(verb):
    code, said = run_unread(f"glmja.{verb}", "--help")
    assert (code in (0, ExitCode.CLOSED_OUTPUT), said) == (True, "")


def test_a_table_at_the_end_ends_quietly_and_the_result_is_complete(base_dir, tmp_path):
    code, said = run_unread(
        "glmja.resize_embeddings", "--base", base_dir, "--tokenizer", base_dir, "--output", tmp_path / "out",
        "--check_greedy", "false",
    )  # fmt: skip
    assert (code, "rror" in said) == (ExitCode.CLOSED_OUTPUT, False)
    assert (tmp_path / "out" / "resize_report.json").is_file()


def test_an_answer_ends_quietly(zero_dir, tmp_path):
    flags = ["--model", zero_dir, "--prompt", "x", "--max_new_tokens", 2, "--device=cpu"]
    done = command_line.run(tmp_path, "glmja.chat", flags, unread=True)
    assert (done.returncode, done.stderr) == (ExitCode.CLOSED_OUTPUT, f"loading {zero_dir} on cpu\n")


def test_a_run_ends_quietly(zero_dir, tmp_path):
    few = {"trainer.callbacks": "[]", "trainer.max_steps": 2, "trainer.limit_val_batches": 1}
    done = command_line.run(tmp_path, "glmja.fit", run_args(zero_dir, tmp_path, "demo_pretrain", **few), unread=True)
    assert done.returncode == ExitCode.CLOSED_OUTPUT
    assert "Traceback" not in done.stderr and "rror" not in done.stderr


def test_an_error_is_told_although_nobody_reads_the_output():
    code, said = run_unread("glmja.export", "--nonsense")
    assert code == 2 and said.startswith("python -m glmja.export: error: ")


def test_errors_that_nobody_reads_end_quietly():
    code, _ = run_unread("glmja.convert", "--model=gone", "--output=x", also_errors=True)
    assert code == ExitCode.CLOSED_OUTPUT


def test_an_open_output_is_not_closed():
    assert not is_output_closed()
