"""Progress of long work: a bar in a terminal, and a line every half a minute in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn

from glmja.text.printable import printable

SECONDS_PER_LINE = 30.0


@contextmanager
def progress(
    description: str | None, total: float, unit: str = "bytes", seconds_per_line: float = SECONDS_PER_LINE
) -> Iterator[Callable[[float], None]]:
    """Shows on standard error how much of some work is done, its rate, and the time left.

    Args:
        description: What is being done; nothing is shown if None.
        total: Amount of work; 0 if unknown.
        unit: Unit of the amount.
        seconds_per_line: Time between two lines where standard error is not a terminal; shorter work has no line.

    Yields:
        A function to call with each amount of work done, from any thread.
    """
    if description is None:
        yield lambda amount: None
        return
    description, start, done = printable(description), time.monotonic(), 0.0
    console = Console(stderr=True)
    # descriptions and states are plain text, not markup
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total or None, state="")
        last_line, lock = start, threading.Lock()

        def advance(amount: float) -> None:
            nonlocal done, last_line
            with lock:
                done += amount
                now = time.monotonic()
                if console.is_terminal:
                    bar.update(task, completed=done, state=progress_state(done, total, unit, now - start))
                elif now - last_line >= seconds_per_line:
                    state = progress_state(done, total, unit, now - start)
                    print(f"{description}: {state}", file=sys.stderr, flush=True)
                    last_line = now

        yield advance


def progress_state(done: float, total: float, unit: str, seconds: float) -> str:
    """Formats an amount of work, its rate, and the time left, such as `3 of 8 rows (38 %), 1.5 rows/s, 0:00:03 left`.

    Args:
        done: Amount of work done.
        total: Amount of all work; 0 if unknown.
        unit: Unit of the amounts.
        seconds: Time that the work has taken so far.
    """
    rate = done / seconds if seconds > 0 else 0.0
    if unit == "bytes":
        amounts, speed = f"{decimal(int(done))} of {decimal(int(total))}", f"{decimal(int(rate))}/s"
    else:
        amounts = f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"
        speed = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"
    share = f" ({done / total:.0%})".replace("%", " %") if total else ""
    left = f", {timedelta(seconds=round(max(0.0, total - done) / rate))} left" if rate and total else ""
    return f"{amounts}{share}, {speed}{left}"
