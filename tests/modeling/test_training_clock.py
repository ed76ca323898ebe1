import pytest

from glmja.modeling import training_clock
from glmja.modeling.training_clock import TrainingClock


class Time:
    now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(training_clock, "time", time)
    return time


def test_the_clock_runs_between_start_and_stop_only(time):
    clock = TrainingClock()
    for _ in range(2):
        clock.start()
        time.now += 2
        clock.start()
        clock.stop()
        time.now += 50
        clock.stop()
    assert clock.seconds == 4


def test_a_reset_clock_keeps_running(time):
    clock = TrainingClock()
    clock.start()
    time.now += 2
    clock.reset()
    time.now += 3
    clock.stop()
    assert clock.seconds == 3
