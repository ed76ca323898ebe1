"""A clock that a test sets, in place of the process's."""


class ManualClock:
    """A clock that shows `now` until the test changes it, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now
