import re
import time

import pytest
from lightning import Callback

from callbacks.progress_lines import ProgressLines
from tests.support.tiny_run import TinyRun, loader, make_batch, make_trainer


class Slow(Callback):
    def on_train_batch_start(self, *_):
        time.sleep(0.05)

    def on_validation_batch_start(self, *_):
        time.sleep(0.05)


@pytest.fixture
def lines(zero_dir, tmp_path, capsys):
    def of(seconds_per_line, callbacks=()):
        batches = [make_batch(i) for i in range(4)]
        run = make_trainer(
            tmp_path, [*callbacks, ProgressLines(seconds_per_line)], max_epochs=1, accumulate_grad_batches=1
        )
        run.fit(TinyRun(zero_dir), loader(batches), loader(batches[:3]))
        return [line for line in capsys.readouterr().err.splitlines() if "left" in line]

    return of


def test_a_log_gets_lines_with_step_rate_time_left_and_loss(lines):
    found = lines(0.04, [Slow()])
    steps = [line for line in found if line.startswith("step ")]
    assert len(steps) == 4
    for number, line in enumerate(steps, start=1):
        assert re.match(rf"step {number}: {number} of 4 steps \({25 * number} %\), [\d.]+ steps/s, 0:00:0\d left", line)
    assert any("train/loss" in line for line in steps)
    assert [line.split(",")[0] for line in found if line.startswith("validation")][-3:] == [
        f"validation: {i} of 3 batches ({round(100 * i / 3)} %)" for i in (1, 2, 3)
    ]


def test_a_short_run_has_no_line(lines):
    assert lines(60) == []


def test_a_terminal_gets_no_line(lines, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert lines(0) == []


@pytest.mark.parametrize("terminal", ["stdout", "stderr"])
def test_lines_are_printed_if_one_of_the_outputs_is_a_file(lines, monkeypatch, terminal):
    monkeypatch.setattr(f"sys.{terminal}.isatty", lambda: True)
    assert len(lines(0)) >= 4
