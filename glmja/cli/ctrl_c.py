"""Ends a command in one line if Ctrl-C is pressed before it has begun its work."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from glmja.errors import ExitCode


def report_ctrl_c(command: str) -> None:
    """Prints that a command was stopped; in a run of several processes, only the first of each machine does.

    Args:
        command: Start of the line.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{command}: stopped by Ctrl-C", file=sys.stderr, flush=True)


def keep_exit_code() -> None:
    """Lets a SystemExit that follows a KeyboardInterrupt set the exit code.

    Python, called with `-m`, ends itself with the signal if a KeyboardInterrupt has left code that `exec` ran from
    text, such as that of a dataclass that is being defined, also if it was caught afterwards. The next `exec` resets
    this.
    """
    exec("")


@contextmanager
def exit_on_ctrl_c(command: str) -> Iterator[None]:
    """Lets Ctrl-C end the process at once with exit code 130, for imports and parsing, which leave nothing behind.

    A KeyboardInterrupt would not always end it: some libraries catch all exceptions while they import others, and a
    module that is only half imported raises an ImportError later. A handler that a caller has set is kept, and
    `GLMJA_DEBUG=1` shows the traceback.

    Args:
        command: Start of the line that is printed.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
    if not is_default or not in_main_thread or os.environ.get("GLMJA_DEBUG") == "1":
        yield
        return

    def end(*_: Any) -> None:
        report_ctrl_c(command)
        os._exit(ExitCode.INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
