"""Two processes started by Lightning end together: soon, with the right exit code, and leaving nothing behind."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from glmja.runs import manifest
from tests.support.demo_run import TWO_RANKS, args, started
from tests.support.recorder import records

SECONDS = 30


def left_in_memory():
    """Lists shared memory that names no living process; other tests may have files there."""
    return {
        path
        for path in Path("/dev/shm").iterdir()
        if not any(psutil.pid_exists(int(number)) for number in re.findall("[0-9]+", path.name))
    }


def running(group):
    """Lists the processes of a session that are not dead."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getsid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            pass
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "raise"])
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_process_fails_all_end(zero_dir, tmp_path, rank, how):
    before, note = left_in_memory(), tmp_path / "failed"
    fail = {"class_path": "tests.support.recorder.Fail", "init_args": {"rank": rank, "how": how, "note": str(note)}}
    with started(args(zero_dir, tmp_path, "demo_pretrain", fail, **TWO_RANKS)) as process:
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{running(process.pid)} hang")
        while running(process.pid):
            assert time.time() - note.stat().st_mtime < SECONDS, running(process.pid)
            time.sleep(0.1)
    seconds = time.time() - note.stat().st_mtime
    print(f"{seconds:.1f} s, exit code {process.returncode}")
    assert process.returncode != 0
    assert seconds < SECONDS, output
    assert left_in_memory() <= before


@pytest.mark.slow
@pytest.mark.parametrize(("send", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM),
                                              (os.killpg, signal.SIGUSR1)])  # fmt: skip
def test_both_ranks_save_and_end_on_a_signal(zero_dir, tmp_path, send, number):
    before = left_in_memory()
    with started(args(zero_dir, tmp_path, "demo_pretrain", **TWO_RANKS, **{"trainer.max_steps": 100})) as process:
        while not (tmp_path / "record.0").exists():
            assert process.poll() is None
            time.sleep(0.1)
        send(process.pid, number)
        told = time.time()
        output, _ = process.communicate(timeout=120)
        assert time.time() - told < SECONDS
        assert not running(process.pid)
    assert process.returncode == 143, output
    last = manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).step
    assert last == max(record[1] for record in records(tmp_path / "record").values())
    assert left_in_memory() <= before
