"""Each kind of error has its exit code and its line; tests/system/test_bad_inputs.py has those caused by users."""

import errno
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from glmja.cli.command import one_line_errors, run_command
from glmja.errors import DataError, MachineError, ModelError

USAGE, DATA, MODEL, MACHINE = 2, 3, 4, 5


def refused(capsys, act, **options):
    """Returns the exit code and the lines of a failing function."""
    with pytest.raises(SystemExit) as stop, one_line_errors("python -m glmja.x", **options):
        act()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return stop.value.code, said.splitlines()


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), USAGE),
        (FileNotFoundError("x"), USAGE),
        (DataError("x"), DATA),
        (ModelError("x"), MODEL),
        (MachineError("x"), MACHINE),
        (ChildProcessError("x"), MACHINE),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code, capsys):
    assert refused(capsys, raising(error)) == (code, [f"python -m glmja.x: error: {error}"])


def test_ctrl_c_ends_a_command_in_one_line_with_130(capsys):
    assert refused(capsys, raising(KeyboardInterrupt())) == (130, ["python -m glmja.x: stopped by Ctrl-C"])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room, or choose another disk"),
        (errno.EFBIG, "raise the limit of file sizes (ulimit -f), or choose another disk"),
        (errno.EROFS, "choose a writable folder"),
        (errno.EACCES, "change the permissions, or choose another folder"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
    ],
)
def test_an_error_of_the_machine_exits_with_5_and_a_remedy(number, remedy, capsys):
    error = OSError(number, os.strerror(number), "out")
    assert refused(capsys, raising(error)) == (MACHINE, [f"python -m glmja.x: error: {error}; {remedy}"])


def test_an_error_of_a_command_has_the_exit_code_that_the_command_assigns(capsys):
    assert refused(capsys, raising(ZeroDivisionError("x")), more={ZeroDivisionError: 6})[0] == 6


def test_several_errors_print_one_line_each_and_equal_ones_once(capsys):
    errors = ExceptionGroup("two", [DataError("a"), ValueError("b"), DataError("a")])
    code, lines = refused(capsys, raising(errors))
    assert code == DATA
    assert lines == ["python -m glmja.x: error: a", "python -m glmja.x: error: b"]


def test_out_of_memory_exits_with_5_and_names_what_to_lower(capsys):
    code, (line,) = refused(capsys, lambda: torch.empty(10**15))
    assert code == MACHINE and len(line) <= 300
    assert "out of memory (" in line and "can't allocate memory" in line
    assert "; lower `batch_size` (or `tokens_per_batch`) or `row_len`, or set `gradient_" in line


def test_a_command_names_its_own_flags_when_memory_runs_out(capsys):
    def verb(batch_size: int = 8, row_len: int = 1024) -> None:
        """Allocates too much.

        Args:
            batch_size: Rows.
            row_len: Tokens.
        """
        raise MemoryError

    with pytest.raises(SystemExit) as stop:
        run_command(verb, [])
    assert stop.value.code == MACHINE
    assert "out of memory (MemoryError); lower --batch_size or --row_len" in capsys.readouterr().err


@pytest.mark.gpu
def test_out_of_memory_on_a_gpu_exits_with_5(capsys):
    code, (line,) = refused(capsys, lambda: torch.empty(10**12, device="cuda"))
    assert code == MACHINE
    assert "out of memory (CUDA out of memory. Tried to allocate " in line and "; lower `batch_size`" in line


class KilledByItsShm(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGBUS)  # as when /dev/shm is full


def test_a_dead_loader_worker_exits_with_5(capfd):
    # a dying worker writes to the file descriptor
    with pytest.raises(SystemExit) as stop, one_line_errors("python -m glmja.x"):
        list(DataLoader(KilledByItsShm(), batch_size=None, num_workers=1))
    assert stop.value.code == MACHINE
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "glmja.x" in line]
    assert "DataLoader worker" in line and "; lower `num_workers`, or free /dev/shm" in line


def test_a_bug_is_not_reported_as_bad_input():
    with pytest.raises(KeyError), one_line_errors("python -m glmja.x"):
        raise KeyError("x")
    with pytest.raises(RuntimeError, match="y"), one_line_errors("python -m glmja.x"):
        raise RuntimeError("y")


def test_the_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("GLMJA_DEBUG", "1")
    with pytest.raises(DataError, match="x"), one_line_errors("python -m glmja.x"):
        raise DataError("x")
