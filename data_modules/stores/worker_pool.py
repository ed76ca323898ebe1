"""Maps a function over items in forked processes: results in order, bounded memory, no process left behind.

Processes are forked because a worker then starts in 50 ms instead of the 5 s in which a fresh process imports torch and
`__main__` again, and because the function, with the tokenizer that it holds, need not be pickled. The danger of fork is
a lock that another thread of the parent holds at that moment. A worker therefore only calls the function: no handler or
finalizer of the parent runs in it, and it leaves with `_exit`. The function must not use CUDA or anything that it
shares with threads of the parent, like the data sets of PyTorch's DataLoader.

`concurrent.futures.ProcessPoolExecutor` does not fit because its workers share one pipe for results: a worker that is
killed while it sends a large result leaves half a message there, and the executor waits for the rest indefinitely.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WINDOW = 4  # items per worker that may be read ahead of the awaited result, so that one slow item blocks no worker


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int | None = None
) -> Generator[Result, None, None]:
    """Yields `function(item)` for each item in order, as `map` does.

    Errors of the function and of the items are raised at their place in this order. Workers end with the iterator,
    which `contextlib.closing` closes early, and with this process, however it ends.

    Args:
        function: Function to call. Workers inherit its state at the moment when they start.
        items: Items, read only as far ahead as the workers need. Items and results are pickled.
        num_workers: Number of processes, which are started as items arrive. With 0 or 1, the function is called in
            this process; None uses all cores.

    Raises:
        ChildProcessError: If a worker dies, for example when the machine runs out of memory.
    """
    num_workers = num_cores() if num_workers is None else num_workers
    if num_workers <= 1:
        yield from map(function, items)
        return
    workers: list[_Worker] = []
    try:
        yield from _in_order(workers, function, iter(items), num_workers)
    finally:
        for worker in workers:
            worker.process.kill()  # it has no state worth saving
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _in_order(
    workers: list[_Worker], function: Callable[[Any], Any], items: Iterator[Any], num_workers: int
) -> Iterator[Any]:
    idle: list[_Worker] = []
    busy: dict[_Worker, int] = {}  # number of its item
    outcomes: dict[int, tuple[bool, Any]] = {}  # by item number: (True, result) or (False, error)
    num_given = num_taken = 0
    more = True
    while True:
        while more and num_given - num_taken < _WINDOW * num_workers and (idle or len(workers) < num_workers):
            try:
                item = next(items)
            except StopIteration:
                more = False
                break
            except Exception as error:  # raised after the results and errors of the items before
                outcomes[num_given], more = (False, error), False
            else:
                if not idle:
                    idle.append(_Worker(function))
                    workers.append(idle[0])
                worker = idle.pop()
                worker.give(item)
                busy[worker] = num_given
            num_given += 1
        if num_taken == num_given:
            return
        ready = wait([worker.connection for worker in busy], timeout=0 if num_taken in outcomes else None)
        for worker in [worker for worker in busy if worker.connection in ready]:
            outcomes[busy.pop(worker)] = worker.take()
            idle.append(worker)
        if num_taken in outcomes:
            succeeded, value = outcomes.pop(num_taken)
            if not succeeded:
                raise value
            num_taken += 1
            yield value


class _Worker:
    """A process with at most one item at a time and its own pipe, so that neither side blocks while it sends."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # otherwise the end of the process would not close the pipe

    def give(self, item: Any) -> None:
        try:
            self.connection.send(item)
        except OSError as error:
            raise self._death() from error

    def take(self) -> tuple[bool, Any]:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> ChildProcessError:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ChildProcessError(f"a worker process {how}; if memory ran out, free some, or use fewer cores (taskset)")


def _serve(function: Callable[[Any], Any], connection: Connection) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        gc.freeze()  # a garbage collection would copy the pages shared with the parent
        while True:
            item = connection.recv()
            try:
                outcome = True, function(item)
            except Exception as error:
                outcome = False, _portable(error)
            try:
                connection.send(outcome)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                connection.send((False, _portable(error)))
    finally:
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Returns the error, or its text if it cannot be pickled, with the worker's traceback as a note."""
    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # unpickling calls the constructor of the error, which may raise anything
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
