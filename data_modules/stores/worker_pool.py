"""A function over items in forked processes: results in order, memory bounded, no process left behind.

Fork, because a worker then starts in 50 ms where a fresh process, which imports torch and `__main__` again, takes 5 s,
and because the function, with the tokenizer that it holds, needs no pickling. The danger of fork is a lock that another
thread of the parent holds at that moment. A worker therefore does nothing but call the function: no handler or
finaliser of the parent runs in it, and it leaves by `_exit`. The function must keep away from CUDA and from what it
shares with the parent's threads, as the data sets of PyTorch's DataLoader must.
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

_WINDOW = 4  # items per worker between the awaited result and the last item read, so that one slow item stops nobody


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int | None = None
) -> Generator[Result, None, None]:
    """Yields `function(item)` for each item in order, as `map` does.

    Errors of the function and of the items come at their place in this order. Workers end with the iterator, which
    `contextlib.closing` closes early, and with this process, however it ends.

    Args:
        function: What to call. Workers inherit it as it is when they start.
        items: Read only as far ahead as the workers need. Items and results are pickled.
        num_workers: Processes, started as items come; 0 or 1 works in this process, None takes all cores.

    Raises:
        ChildProcessError: If a worker dies, as when the machine runs out of memory.
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
            worker.process.kill()  # nothing in it is worth saving
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _in_order(
    workers: list[_Worker], function: Callable[[Any], Any], items: Iterator[Any], num_workers: int
) -> Iterator[Any]:
    idle: list[_Worker] = []
    busy: dict[_Worker, int] = {}  # and the number of its item
    outcomes: dict[int, tuple[bool, Any]] = {}  # whether the item went well; its result or error
    num_given = num_taken = 0
    more = True
    while True:
        while more and num_given - num_taken < _WINDOW * num_workers and (idle or len(workers) < num_workers):
            try:
                item = next(items)
            except StopIteration:
                more = False
                break
            except Exception as error:  # comes after the results, and the errors, of the items before
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
            went_well, value = outcomes.pop(num_taken)
            if not went_well:
                raise value
            num_taken += 1
            yield value


class _Worker:
    """A process that has at most one item at a time, so that neither side waits for the other to read."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # or its end would not be seen

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
        return ChildProcessError(f"a worker process {how}; if memory ran out, use fewer workers")


def _serve(function: Callable[[Any], Any], connection: Connection) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        gc.freeze()  # a collection would copy the parent's pages
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
    """The error if it survives pickling, with the worker's traceback as a note."""
    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # an exception class may ask for anything
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
