"""Tests of the clock that measures the time of training."""

from glmja.modeling.training_clock import TrainingClock


def test_the_clock_runs_between_start_and_stop_only(clock):
    measured = TrainingClock()
    for _ in range(2):
        measured.start()
        clock.now += 2
        measured.start()
        measured.stop()
        clock.now += 50
        measured.stop()
    assert measured.seconds == 4


def test_a_reset_clock_keeps_running(clock):
    measured = TrainingClock()
    measured.start()
    clock.now += 2
    measured.reset()
    clock.now += 3
    measured.stop()
    assert measured.seconds == 3
