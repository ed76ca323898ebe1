"""Two processes never write to one run folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from glmja.runs import run_lock
from glmja.runs.run_lock import locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from glmja.runs.run_lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_at_once(other, tmp_path):
    folder = tmp_path / "run"
    who = rf"another run \(process {other.pid} on .*\); wait for it, stop it, or choose another folder"
    with pytest.raises(ValueError, match=rf"`run_dir` {folder} is in use by {who}"), locked(folder):
        pass


def test_a_killed_process_keeps_no_lock(other, tmp_path):
    other.kill()
    other.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith("process ")


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path):
    with locked(tmp_path / "a" / "run"):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["file"]


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    def unsupported(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(run_lock.fcntl, "lockf", unsupported)
    with locked(tmp_path):
        assert "this file system has no locks (" in caplog.text
        assert "start only one run in this folder" in caplog.text
