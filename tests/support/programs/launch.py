"""Runs a function in one or several processes forked from a server that has done the imports, which saves seconds each.

The processes form a group of their own and are killed at the end of the test. Lightning sees them as ranks started by
an external launcher.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
IMPORTS = [
    "pytest", "glmja.fit", "data_modules", "lit_modules", "callbacks", "deepspeed", "peft",
    "tests.support.programs.toy", "deepspeed.runtime.zero.muon.original_muon", "transformers.models.glm.modeling_glm",
    "torch.utils.tensorboard", "glmja.verification.export",
]  # fmt: skip
TIMEOUT_SECONDS = 300  # for hangs; the runs take seconds


class Run:
    """A running function."""

    def __init__(self, processes: list[BaseProcess], output: Path) -> None:
        self.processes, self.output = processes, output

    @property
    def pid(self) -> int:
        """Returns the id of the first process and of the group."""
        return self.processes[0].pid

    def until(self, start: str) -> str:
        """Waits for a line of output that starts with `start` and returns its rest."""
        while True:
            running = self.processes[0].is_alive()
            for line in self.output.read_text().splitlines():
                if line.startswith(start):
                    return line.removeprefix(start).strip()
            assert running, f"ended without {start!r}"
            time.sleep(0.02)

    def wait(self) -> tuple[int, str]:
        """Waits for all processes; returns the exit code of the first and the output of all."""
        for process in self.processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, f"still running: {self.output.read_text()}"
        return self.processes[0].exitcode, self.output.read_text()


@contextmanager
def started(output: Path, act: Callable[..., Any], *args: Any, ranks: int = 1) -> Iterator[Run]:
    """Starts a function, and kills its processes at the end of the block.

    Args:
        output: File for stdout and stderr.
        act: Function of a module.
        args: Arguments of the function.
        ranks: Number of processes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("")
    processes: list[BaseProcess] = []
    try:
        for rank in range(ranks):
            group = processes[0].pid if processes else 0
            process = fork_server().Process(target=_as_rank, args=(rank, ranks, port, group, str(output), act, args))
            process.start()
            processes.append(process)
        yield Run(processes, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(processes[0].pid, signal.SIGKILL)
        for process in processes:
            process.kill()
            process.join()


def run(output: Path, act: Callable[..., Any], *args: Any, ranks: int = 1) -> tuple[int, str]:
    """Runs a function until it ends; returns its exit code and output."""
    with started(output, act, *args, ranks=ranks) as running:
        return running.wait()


@cache
def fork_server() -> ForkServerContext:
    """Starts the server of this test process; returns the context whose processes it forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED"):
            patch.delenv(name, raising=False)
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            patch.delenv(name)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("PYTHONPATH", str(ROOT))  # Python 3.11 needs it for the preloaded imports
        ensure_running()
    return context


def _as_rank(
    rank: int, ranks: int, port: int, group: int, output: str, act: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    while rank:
        with suppress(OSError):  # the first process has not made the group yet
            os.setpgid(0, group)
            break
        time.sleep(0.005)
    else:
        os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # loader workers fork, as in a process that was not forked
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if ranks > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    act(*args)
