"""A command as a process of its own runs it, but forked from the server, which saves the seconds of its imports."""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.programs import launch


def run(
    folder: Path,
    module: str,
    args: Sequence[object],
    stdin: str = "",
    cwd: Path = launch.ROOT,
    environment: Mapping[str, str] | None = None,
    unread: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs the `main` of a module until it ends.

    Args:
        folder: Folder for its input and output.
        module: The module.
        args: Its arguments.
        stdin: Its standard input.
        cwd: Its working directory, from which it may import, too.
        environment: Variables to change.
        unread: Whether its standard output is a pipe that nobody reads.
    """
    (folder / "stdin").write_text(stdin, encoding="utf-8")
    given = module, [*map(str, args)], str(folder), str(cwd), dict(environment or {}), unread
    code, _ = launch.run(folder / "output", _act, *given)
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(args, code, out, err)


def _act(module: str, args: list[str], folder: str, cwd: str, environment: dict[str, str], unread: bool) -> None:
    for number, (name, flags) in enumerate(
        [("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY | os.O_CREAT), ("stderr", os.O_WRONLY | os.O_CREAT)]
    ):
        os.dup2(os.open(Path(folder, name), flags, 0o600), number)
    if unread:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    # multiprocessing has closed the first; the others would take a pipe for the file that they were opened for
    sys.stdin, sys.stdout = (open(i, mode, encoding="utf-8", closefd=False) for i, mode in ((0, "r"), (1, "w")))  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ |= environment
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    importlib.import_module(module).main(args)
