"""Runs of the toy model that are stopped, killed and resumed, and their comparison with uninterrupted runs."""

import json
import signal
from pathlib import Path

from glmja.runs import manifest
from tests.support.programs import toy
from tests.support.programs.launch import run, started

ACCUMULATE = 2


def train(*runs):
    """Runs the toy; returns exit code and output."""
    for options in runs:
        Path(options["folder"]).mkdir(parents=True, exist_ok=True)
    return run(_output(runs[0]), toy.main, runs, ranks=runs[0].get("ranks", 1))


def stop(send, number=signal.SIGTERM, expected=143, **options):
    """Sends a signal to the toy after some steps; returns the step of the checkpoint that it saved.

    Args:
        send: `os.kill` for the main process only, `os.killpg` for all.
        number: Number of the signal.
        expected: Exit code.
        options: Options of the toy.
    """
    Path(options["folder"]).mkdir(parents=True, exist_ok=True)
    runs = [options | {"announce_at": 4, "max_steps": 1000}]
    with started(_output(options), toy.main, runs, ranks=options.get("ranks", 1)) as running:
        running.until("AT ")
        send(running.pid, number)
        code, output = running.wait()
    assert code == expected, output
    step = manifest.read(newest(options["folder"])).step
    assert step >= 4
    return step


def _output(options):
    return Path(options["folder"], "output")


def newest(folder):
    return manifest.newest(Path(folder, "checkpoints"))


def check_same(straight, interrupted, ranks, parts):
    """Asserts that an interrupted run has the same micro-batches and weights as an uninterrupted one.

    Args:
        straight: Folder of the uninterrupted run.
        interrupted: Folder of the interrupted run.
        ranks: Number of processes of each.
        parts: First and last step of each part of the interrupted run; None as the last step stands for the end.
    """
    for rank in range(ranks):
        ours, theirs = (
            [json.loads(line) for line in Path(folder, f"log.{rank}.jsonl").read_text().splitlines()]
            for folder in (interrupted, straight)
        )
        expected = [theirs[slice(first * ACCUMULATE, last and last * ACCUMULATE)] for first, last in parts]
        assert ours == [line for part in expected for line in part]
        assert Path(interrupted, f"weights.{rank}").read_text() == Path(straight, f"weights.{rank}").read_text()
