import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from data_modules.stores import worker_pool
from data_modules.stores.worker_pool import map_in_processes, num_cores

WORKERS = [0, 1, 2, 5]

PROGRAM = """
import os, time
from worker_pool import map_in_processes

def forever(i):
    os.write(1, b"%d\\n" % os.getpid())  # whole, although two processes write
    time.sleep(600)

if __name__ == "__main__":
    try:
        list(map_in_processes(forever, range(2), 2))
    except KeyboardInterrupt:
        raise SystemExit(130)
"""


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"  # nobody may be there to reap it
    except OSError:
        return False


def gone_soon(pids):
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


@pytest.mark.parametrize("num_workers", WORKERS)
def test_results_are_in_the_order_of_the_items(num_workers):
    def later_if_even(i):
        time.sleep(0.002 * (i % 2 == 0))
        return i * i

    assert list(map_in_processes(later_if_even, range(40), num_workers)) == [i * i for i in range(40)]


@pytest.mark.parametrize("num_workers", WORKERS)
def test_no_items_give_no_results(num_workers):
    assert list(map_in_processes(str, [], num_workers)) == []


def test_all_cores_work_unless_a_number_is_given():
    pids = set(map_in_processes(lambda i: time.sleep(0.05) or os.getpid(), range(num_cores() * 3)))
    assert len(pids) == num_cores()


def test_large_items_and_results_pass():
    big = bytes(3_000_000)
    assert all(got == big for got in map_in_processes(bytes, [big] * 9, 2))


def test_items_are_read_only_a_window_ahead():
    read = []

    def items():
        for i in range(1000):
            read.append(i)
            yield i

    with closing(map_in_processes(str, items(), 2)) as results:
        for _ in range(5):
            next(results)
        time.sleep(0.1)
        assert len(read) <= 5 + 2 * 4


@pytest.mark.parametrize("num_workers", WORKERS)
def test_an_error_comes_as_it_was_after_the_results_before_it(num_workers):
    def checked(i):
        if i >= 7:
            raise ValueError(f"a.jsonl:{i}: bad")
        return i

    results = map_in_processes(checked, range(30), num_workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match=r"^a.jsonl:7: bad") as caught:
        next(results)
    assert str(caught.value) == "a.jsonl:7: bad"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", WORKERS)
def test_an_error_of_the_items_comes_after_the_results_before_it(num_workers):
    def items():
        yield from range(5)
        raise ValueError("a.jsonl.gz:6: damaged")

    results = map_in_processes(str, items(), num_workers)
    assert [next(results) for _ in range(5)] == list("01234")
    with pytest.raises(ValueError, match=r"a.jsonl.gz:6: damaged"):
        next(results)


def test_an_error_has_the_traceback_of_the_worker():
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_in_processes(lambda i: 1 // i, [0], 2))
    assert "In a worker process:" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_becomes_its_text():
    class LocalError(Exception):
        pass

    def fail(_):
        raise LocalError("no way")

    with pytest.raises(RuntimeError, match="LocalError: no way"):
        list(map_in_processes(fail, [1], 2))


def test_a_result_that_cannot_be_pickled_is_an_error():
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"(?i)can.t pickle|cannot pickle"):
        list(map_in_processes(lambda _: threading.Lock(), [1], 2))


@pytest.mark.parametrize("kill", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3)])
def test_a_worker_that_dies_is_one_clear_error(kill):
    with pytest.raises(ChildProcessError, match=r"worker process (was killed by SIGKILL|ended with exit code 3); if"):
        list(map_in_processes(lambda i: kill() if i == 5 else i, range(20), 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("delay", [0.001, 0.003, 0.01])
def test_a_worker_that_dies_while_it_sends_a_large_result_is_one_clear_error(delay):
    def large(i):
        if i == 5:
            threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        return bytes(20_000_000)

    with pytest.raises(ChildProcessError, match="was killed by SIGKILL"):
        list(map_in_processes(large, range(50), 2))


def test_the_consumer_may_stop_while_large_results_are_sent():
    for _ in range(5):
        with closing(map_in_processes(lambda _: bytes(20_000_000), range(50), 2)) as results:
            next(results)
    assert not multiprocessing.active_children()


def test_an_idle_worker_that_dies_is_one_clear_error():
    def items():
        yield 1
        yield 2
        time.sleep(0.2)  # both are idle
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        yield 3

    with pytest.raises(ChildProcessError, match="was killed by SIGKILL"):
        list(map_in_processes(str, items(), 2))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_worker_is_left_when_the_consumer_stops(error):
    with pytest.raises(error), closing(map_in_processes(str, range(1000), 2)) as results:
        next(results)
        assert multiprocessing.active_children()
        raise error
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_parent(how, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    environment = os.environ | {"PYTHONPATH": str(Path(worker_pool.__file__).parent)}  # without the others' imports
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)  # as Ctrl-C does
        else:
            os.kill(parent.pid, how)
        code, stderr = parent.wait(20), parent.stderr.read()
    assert gone_soon(pids)
    assert (code, stderr) == ((130, "") if how == signal.SIGINT else (-how, ""))
