"""Ends a command quietly if nobody reads its output any more, as in `glmja --help | head -3`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from glmja.errors import ExitCode


@contextmanager
def quiet_when_output_closes() -> Iterator[None]:
    """Ends the program without a message if the block writes to a closed standard output.

    The exit code is `ExitCode.CLOSED_OUTPUT`. The signal itself stays ignored, as Python has it: it would also end a
    training run that loses another connection.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # otherwise Python does so after the end, and complains
    except BrokenPipeError:
        if not is_output_closed():
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in filter(_is_closed, (sys.stdout, sys.stderr)):
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(ExitCode.CLOSED_OUTPUT) from None


def is_output_closed() -> bool:
    """Returns whether standard output or standard error is a pipe that nobody reads."""
    return _is_closed(sys.stdout) or _is_closed(sys.stderr)


def _is_closed(stream: object) -> bool:
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # not a file, as in a notebook
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
