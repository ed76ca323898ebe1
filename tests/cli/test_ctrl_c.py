"""Ctrl-C ends a command in one line, also while it imports libraries and reads its command line."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glmja.cli import ctrl_c
from glmja.cli.command import run_command
from glmja.cli.ctrl_c import exit_on_ctrl_c

ROOT = Path(__file__).parents[2]
# presses Ctrl-C when the module begins to be imported, and catches what it raises, as some libraries do
PROGRAM = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Presses:
    def find_spec(self, name, *_):
        if name == {module!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                raise ImportError(name)
sys.meta_path.insert(0, Presses())
sys.argv = {argv!r}
runpy.run_module({program!r}, run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize(
    ("program", "argv", "module", "said"),
    [
        ("glmja.fit", ["fit", "-c", "configs/sft.yaml"], "lightning", "python -m glmja.fit"),
        ("glmja.__main__", ["glmja", "fit", "-c", "configs/sft.yaml"], "lightning", "glmja fit"),
        ("glmja.__main__", ["glmja", "build-tokenizer"], "glmja.build_tokenizer", "glmja build-tokenizer"),
    ],
)
def test_ctrl_c_during_imports_ends_in_one_line_with_130(program, argv, module, said):
    code = PROGRAM.format(module=module, argv=argv, program=program)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{said}: stopped by Ctrl-C\n")


def test_ctrl_c_in_code_that_is_run_from_text_exits_with_130(tmp_path):
    program = """from glmja.cli.command import one_line_errors
with one_line_errors("x"):
    exec("raise KeyboardInterrupt")
"""
    (tmp_path / "pressed.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pressed"],  # Python ends itself with the signal only where it runs a module
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "x: stopped by Ctrl-C\n")


@pytest.fixture
def codes(monkeypatch):
    """Exit codes with which the process would have ended."""
    found: list[int] = []
    monkeypatch.setattr(ctrl_c.os, "_exit", found.append)
    return found


def test_ctrl_c_while_a_command_reads_its_command_line_ends_it(codes, monkeypatch, capsys):
    def verb(x: int = 0) -> None:
        """Does nothing.

        Args:
            x: A number.
        """

    monkeypatch.setattr("glmja.cli.command.CliParser.parse_args", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(AttributeError):  # nothing was parsed; the process would have ended before
        run_command(verb, [])
    assert codes == [130]
    assert capsys.readouterr().err == "python -m glmja.verb: stopped by Ctrl-C\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_the_first_process_of_a_machine_reports_it(codes, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    with exit_on_ctrl_c("x"):
        signal.raise_signal(signal.SIGINT)
    assert codes == [130]
    assert capsys.readouterr().err == ""


def test_a_handler_of_the_caller_is_kept(codes, monkeypatch):
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with exit_on_ctrl_c("x"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (codes, pressed) == ([], [1])


def test_the_traceback_is_shown_on_request(codes, monkeypatch):
    monkeypatch.setenv("GLMJA_DEBUG", "1")
    with pytest.raises(KeyboardInterrupt), exit_on_ctrl_c("x"):
        signal.raise_signal(signal.SIGINT)
    assert codes == []


def test_another_thread_sets_no_handler(codes):
    entered = []

    def enter():
        with exit_on_ctrl_c("x"):
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.default_int_handler]
