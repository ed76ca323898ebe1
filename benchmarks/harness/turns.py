"""Runs contenders in turns on one machine and compares them round by round.

Each contender of `take_turns` is a process that lives through the whole comparison and works only when it is its turn.
Other load on the machine affects all contenders alike, so ratios within a round are comparable where times are not.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.harness.tables import Figures

Turns = list[dict[str, float]]


def alternate(names: Iterable[str], num_rounds: int) -> Iterator[str]:
    """Yields all names once per round, forwards and backwards in alternation, and prints them."""
    listed = list(names)
    for number in range(num_rounds):
        for name in reversed(listed) if number % 2 else listed:
            print(f"round {number + 1}: {name}", flush=True)
            yield name


class Turn:
    """A contender's end of the connection to `take_turns`."""

    def __init__(self, connection: Connection) -> None:
        """Keeps the connection."""
        self.connection = connection

    def begin(self) -> None:
        """Reports that the contender is ready, and waits for its first turn."""
        self.connection.send(None)
        self.wait()

    def wait(self) -> None:
        """Waits for the next turn and starts the clock."""
        self.connection.recv()
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def end(self, **counts: float) -> None:
        """Reports the time of this turn and the given counts, and waits for the next turn."""
        spent = {"seconds": time.perf_counter() - self.start, "cpu": time.process_time() - self.cpu_start}
        self.connection.send(spent | counts)
        self.wait()


def take_turns(
    contenders: Mapping[str, Callable[[Turn], None]], num_rounds: int, warmup: int = 1
) -> tuple[dict[str, Turns], str]:
    """Lets each contender work once per round.

    Args:
        contenders: Picklable functions. Each calls `turn.begin()` once, then `turn.end()` after each piece of work,
            in an endless loop.
        num_rounds: Number of measured rounds.
        warmup: Number of rounds before them.

    Returns:
        The turns of each contender, those of the warm-up first; and the load average before and after.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Any, Connection]] = {}
    turns: dict[str, Turns] = {name: [] for name in contenders}
    load = [os.getloadavg()[0]]
    try:
        for name, work in contenders.items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_contend, args=(work, theirs))
            process.start()
            theirs.close()
            running[name] = process, mine
        for name in running:
            running[name][1].recv()
        for name in alternate(contenders, warmup + num_rounds):
            _, connection = running[name]
            connection.send(None)
            turns[name].append(connection.recv())
            print(f"    {json.dumps(turns[name][-1])}", flush=True)
    except EOFError as error:
        raise ChildProcessError(f"{name} ended early; its error is printed above") from error
    finally:
        for process, connection in running.values():
            process.kill()
            process.join()
            connection.close()
    load.append(os.getloadavg()[0])
    return turns, f"load average {load[0]:.1f} before, {load[1]:.1f} after"


def _contend(work: Callable[[Turn], None], connection: Connection) -> None:
    import torch  # noqa: PLC0415 - so that comparing commands does not import it
    from transformers.utils import logging as hf_logging  # noqa: PLC0415

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    hf_logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    work(Turn(connection))


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Formats `median (minimum–maximum)`."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratios(theirs: Turns, ours: Turns, key: str = "seconds") -> list[float]:
    """Returns `theirs / ours` for each round."""
    return [t[key] / o[key] for t, o in zip(theirs, ours, strict=True)]


def row(name: str, turns: Turns) -> list[str]:
    """Formats the name, useful tokens per second, and CPU seconds per 1,000 useful tokens."""
    per_second = [turn["tokens"] / turn["seconds"] for turn in turns]
    cpu = [1000 * turn["cpu"] / turn["tokens"] for turn in turns]
    return [name, median_and_spread(per_second, 0), median_and_spread(cpu)]


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns the largest relative difference of two curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))


def curve(title: str, curves: Mapping[str, Sequence[float]], num_shown: int = 8) -> Figures:
    """Makes a table of losses side by side, at some of the steps."""
    num_steps = min(map(len, curves.values()))
    shown = range(0, num_steps, -(-num_steps // num_shown))
    table = Figures(title, ["contender", *[f"step {i + 1}" for i in shown]])
    for name, losses in curves.items():
        table.rows.append([name, *[f"{losses[i]:.4f}" for i in shown]])
    return table
