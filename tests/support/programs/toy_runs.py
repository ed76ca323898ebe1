"""What tests ask of the toy: to stop, to die, to go on, and to come out as if nothing had happened."""

import json
import signal
from pathlib import Path

from glmja.runs import manifest
from tests.support.programs import toy
from tests.support.programs.launch import run, started

ACCUMULATE = 2


def train(*runs):
    """Runs the toy; exit code and output."""
    for options in runs:
        Path(options["folder"]).mkdir(parents=True, exist_ok=True)
    return run(_output(runs[0]), toy.main, runs, ranks=runs[0].get("ranks", 1))


def stop(send, number=signal.SIGTERM, **options):
    """Signals the toy after some steps; the step at which it stopped, saved and said so.

    Args:
        send: `os.kill` for the main process only, `os.killpg` for all.
        number: The signal.
        options: Of the toy.
    """
    Path(options["folder"]).mkdir(parents=True, exist_ok=True)
    runs = [options | {"announce_at": 4, "max_steps": 1000}]
    with started(_output(options), toy.main, runs, ranks=options.get("ranks", 1)) as running:
        running.until("AT ")
        send(running.pid, number)
        code, output = running.wait()
    assert code == 143, output
    step = manifest.read(newest(options["folder"])).step
    assert step >= 4
    return step


def _output(options):
    return Path(options["folder"], "output")


def newest(folder):
    return manifest.newest(Path(folder, "checkpoints"))


def check_same(straight, interrupted, ranks, parts):
    """The parts of the interrupted run are those of the straight one, and so are its weights, bit for bit.

    Args:
        straight: Folder of the straight run.
        interrupted: Folder of the interrupted run.
        ranks: Their processes.
        parts: First and last step of each part; the last step is None for the end.
    """
    for rank in range(ranks):
        ours, theirs = (
            [json.loads(line) for line in Path(folder, f"log.{rank}.jsonl").read_text().splitlines()]
            for folder in (interrupted, straight)
        )
        expected = [theirs[slice(first * ACCUMULATE, last and last * ACCUMULATE)] for first, last in parts]
        assert ours == [line for part in expected for line in part]
        assert Path(interrupted, f"weights.{rank}").read_text() == Path(straight, f"weights.{rank}").read_text()
