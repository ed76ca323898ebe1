"""Measures a command: seconds, peak memory, bytes read from and written to the disk.

A process inherits the peak memory of its parent (Linux counts the memory that was mapped until `exec`), so the command
is started by a small process that imports only the standard library: this file, run with
`python -m benchmarks.harness.process_cost`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_BLOCK = 512  # the unit of ru_inblock and ru_oublock


@dataclass(frozen=True)
class Cost:
    """Resources used by a command that succeeded.

    Attributes:
        seconds: Wall-clock time, including the start of the process and the `sync` after it if requested.
        cpu_seconds: Processor time of all threads.
        peak_bytes: Largest resident set of the process.
        read_bytes: Bytes read from the disk, without those that the page cache held.
        written_bytes: Bytes written to the disk.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int


def cost_of(command: list[str], sync: bool = False) -> Cost:
    """Runs a command in the repository's root and measures it.

    Args:
        command: The program and its arguments.
        sync: Whether to run `sync` after the command and count its time.

    Raises:
        RuntimeError: If the command fails; the message ends with its standard error.
    """
    wrapper = [sys.executable, "-m", "benchmarks.harness.process_cost", str(int(sync)), *command]
    done = subprocess.run(wrapper, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … failed: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout))


def _measure(sync: bool, command: list[str]) -> Cost:
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    if sync:
        os.sync()
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = used.ru_utime + used.ru_stime
    return Cost(seconds, cpu_seconds, used.ru_maxrss * 1024, used.ru_inblock * _BLOCK, used.ru_oublock * _BLOCK)


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(sys.argv[1] == "1", sys.argv[2:]))))
