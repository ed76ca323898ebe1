"""Problems of a run that are collected before anything heavy, and reported together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from glmja.errors import MachineError
from glmja.files.folder_kinds import MODEL_CONFIG, is_model, list_names
from glmja.runs import manifest
from glmja.runs.run_folder import RunFolder
from lit_modules.first_rank import is_first_of_run

INPUT_ERRORS = (ValueError, OSError, MisconfigurationException, ExceptionGroup)
_LOGS = (".log", ".out", ".err")  # what a shell or a scheduler writes there before the run starts


class Problems:
    """Errors that input caused, in the order in which they were found.

    Attributes:
        found: The errors, none of which is a group.
    """

    def __init__(self) -> None:
        """Creates an empty collection."""
        self.found: list[Exception] = []

    def add(self, error: Exception) -> None:
        """Adds an error, or those of a group; one with a message that is known already is left out."""
        for inner in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
            if isinstance(inner, ExceptionGroup):
                self.add(inner)
            elif str(inner) not in map(str, self.found):
                self.found.append(inner)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Adds an error that input causes within the block, instead of raising it."""
        try:
            yield
        except INPUT_ERRORS as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raises what was found.

        Raises:
            Exception: If there is one error.
            ExceptionGroup: If there are several.
        """
        if len(self.found) > 1:
            raise ExceptionGroup("the run cannot start", self.found)
        for error in self.found:
            raise error


def check_new_run(run: RunFolder, config: Namespace) -> None:
    """Checks that a folder is free for a new run: it is new, empty, or that of a run that saved no checkpoint.

    Hidden files, logs, and what the configuration names, such as `cache_dir`, may be there before the run.

    Args:
        run: The folder.
        config: The configuration of the run.

    Raises:
        ValueError: If it holds a model, a run or other files, or is within the folder of a model or a run.
    """
    if (run.path / MODEL_CONFIG).is_file():
        raise ValueError(f"`run_dir` {run.path} holds a model; choose a new folder for the run")
    if manifest.any_in(run.checkpoints):
        raise ValueError(f"`run_dir` {run.path} holds a run; choose another folder, or resume it with `ckpt_path` last")
    for folder in run.path.resolve().parents:
        if what := "a model" if is_model(folder) else "a run" if RunFolder(folder).has_saved() else None:
            raise ValueError(f"`run_dir` {run.path} is within the folder of {what}, {folder}; choose one outside of it")
    if run.path.is_dir() and not run.has_begun():
        named = {Path(text).absolute() for text in _texts(config)}
        others = [path.name for path in sorted(run.path.iterdir()) if not _may_be_there(path, named)]
        if others:
            raise ValueError(
                f"`run_dir` {run.path} holds other files ({list_names(others)}); choose a new folder for the run"
            )


def _may_be_there(path: Path, named: set[Path]) -> bool:
    is_named = any(name.is_relative_to(path.absolute()) for name in named)
    return is_named or path.name.startswith(".") or path.suffix in _LOGS


def _texts(value: object) -> Iterator[str]:
    """Returns all strings and paths in a configuration."""
    if isinstance(value, (str, os.PathLike)):
        yield str(value)
    elif isinstance(value, (Namespace, dict)):
        yield from _texts([*(vars(value) if isinstance(value, Namespace) else value).values()])
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def check_gpus(trainer: Namespace) -> None:
    """Checks that this machine has the GPUs that the configuration of a trainer asks for.

    Raises:
        MachineError: If it has none, or fewer.
    """
    if str(trainer.accelerator) not in ("gpu", "cuda") or torch.backends.mps.is_available():
        return
    count, devices = torch.cuda.device_count(), str(trainer.devices)
    if not count:
        raise MachineError(
            f"trainer.accelerator is {trainer.accelerator}, and torch finds no GPU on this machine; start the "
            "run on one with GPUs, or add configs/presets/cpu.yaml for a small model"
        )
    if devices.isdecimal() and int(devices) > count:
        raise MachineError(f"`devices` asks for {devices} GPUs, and torch finds {count} on this machine; lower it")


def use_cpu(trainer: Namespace) -> None:
    """Changes the configuration of a trainer that will not run, so that it can be created and checked."""
    trainer.accelerator, trainer.devices, trainer.num_nodes = "cpu", 1, 1


@contextmanager
def clean_up_on_failure(folder: Path, has_started: Callable[[], bool]) -> Iterator[None]:
    """Removes what the block has written to a folder if it fails before training has started.

    Args:
        folder: Folder of the run; what it held before stays.
        has_started: Returns whether training has started.
    """
    before = set(folder.rglob("*"))
    try:
        yield
    except BaseException:
        if not has_started() and is_first_of_run():
            for path in sorted({*folder.rglob("*")} - before, reverse=True):
                with suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink()
        raise
