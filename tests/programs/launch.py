"""Runs a program of this folder as its own group of processes, none of which outlives the test."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 120  # a hang; the programs take seconds


@contextmanager
def started(program, **options):
    """The running program; stdout and stderr go to one pipe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {key: value for key, value in os.environ.items() if key not in own and not key.startswith("SLURM_")}
    process = subprocess.Popen(
        [sys.executable, str(HERE / f"{program}.py"), json.dumps(options, default=str)],
        env=environment | {
            "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parents[1]),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def until(process, start):
    """The rest of the first line of output that starts so."""
    for line in process.stdout:
        if line.startswith(start):
            return line.removeprefix(start).strip()
    raise AssertionError(f"ended without {start!r}")


def run(program, **options):
    """Exit code and output of a program that ends by itself."""
    with started(program, **options) as process:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, output
