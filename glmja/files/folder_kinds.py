"""Recognizes what a folder holds by the names of its files, so that a wrong one is refused with the remedy.

Users give the folder of a run where a model is expected, the root of the Hub's cache, or the id of a model on the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from glmja.errors import ModelError

# names of files that determine what a folder is; other rooms take them from here
MODEL_CONFIG = "config.json"
RUN_CONFIG = "config.yaml"
CHECKPOINT_MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"  # folder in a run
CHECKPOINT = "*.ckpt"
PACK = "pack.json"

_TOKENIZERS = ("tokenizer.model", "ice_text.model", "tokenizer.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

_HUB_ID = re.compile(r"(?!(?:models|runs|demo|data)/)[\w-]+/[\w.-]+")  # not the folders of this project
_HUB_CACHE = "models--*"  # `models--THUDM--chatglm3-6b` in the cache of huggingface_hub


def check_model_folder(path: str | Path) -> None:
    """Checks that a path is not the place of something else where the folder of a model or a tokenizer is expected.

    Only what is recognized is refused; that files are missing or damaged is left to those who read them.

    Args:
        path: The folder.

    Raises:
        FileNotFoundError: If it does not exist.
        ModelError: If it is a file, a folder of the Hub's cache, a run, a checkpoint, a language pack, or adapters.
    """
    path = Path(path)
    _check_folder(path, "a model")
    if (path / MODEL_CONFIG).exists():
        return
    for fact in (*_of_hub_cache(path), *_of_run(path), *_of_other_weights(path), *_of_folder_around(path)):
        raise ModelError(f"{path}: {fact}")


def check_not_a_tokenizer(path: str | Path) -> None:
    """Checks that the folder of a model, which has a configuration, is not only that of a tokenizer.

    Args:
        path: The folder.

    Raises:
        ModelError: If it has the file of a tokenizer, and neither a configuration nor weights.
    """
    path = Path(path)
    if (path / MODEL_CONFIG).exists() or _has_weights(path):
        return
    if found := next((name for name in _TOKENIZERS if (path / name).is_file()), None):
        raise ModelError(
            f"{path}: a tokenizer ({found}), not a model; python -m glmja.resize_embeddings --tokenizer {path} makes a "
            "model for it"
        )


def is_model(folder: Path) -> bool:
    """Returns whether a folder holds a model: its configuration and weights; other programs have a config.json, too."""
    return (folder / MODEL_CONFIG).is_file() and _has_weights(folder)


def check_run_folder(path: str | Path) -> None:
    """Checks that a path is not the place of something else where a run or a checkpoint of one is expected.

    Args:
        path: Folder of a run, or one of its checkpoints.

    Raises:
        FileNotFoundError: If it does not exist.
        ModelError: If it is a file, a model, a language pack, or the folder that holds the checkpoints of a run.
    """
    path = Path(path)
    _check_folder(path, "a run or a checkpoint")
    if (path / CHECKPOINT_MANIFEST).exists() or (path / CHECKPOINTS).is_dir():
        return
    if (path / PACK).is_file():
        raise ModelError(f"{path}: a language pack, not a run or a checkpoint; set `pack` to it")
    if (path / MODEL_CONFIG).is_file():
        raise ModelError(
            f"{path}: the folder of a model, not a run or a checkpoint; give the folder that the training wrote "
            f"({RUN_CONFIG}, {CHECKPOINTS}/)"
        )
    if path.name == CHECKPOINTS and any(path.glob(CHECKPOINT)):
        raise ModelError(f"{path}: holds the checkpoints of a run; give the run {path.parent}, or one of them")


def describe_no_checkpoint(path: Path) -> str | None:
    """Describes what a path is instead of a checkpoint, and which one to give; None if it may be one.

    Args:
        path: A file or folder.
    """
    if path.is_file():
        above = next((folder for folder in path.parents[:2] if (folder / CHECKPOINT_MANIFEST).is_file()), None)
        return (
            f"is a file of a checkpoint; give its folder {above}"
            if above
            else "is a file; a checkpoint is a folder, such as step=4.ckpt"
        )
    if (path / CHECKPOINT_MANIFEST).exists():
        return None
    for parent in (path, path / CHECKPOINTS):
        if names := checkpoint_names(parent):
            return f"holds checkpoints; give one of them, such as {parent / names[-1]}"
    if (path.parent / CHECKPOINT_MANIFEST).is_file():
        return f"is a part of a checkpoint; give its folder {path.parent}"
    for name, what in ((PACK, "language pack"), (MODEL_CONFIG, "model folder")):
        if (path / name).is_file():
            return f"is a {what}, not a checkpoint; give a folder in {CHECKPOINTS}/ of the run"
    return None


def checkpoint_names(parent: Path) -> list[str]:
    """Returns the names of the checkpoints in a folder, sorted by the numbers in them."""
    names = [path.parent.name for path in parent.glob(f"{CHECKPOINT}/{CHECKPOINT_MANIFEST}")]
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def check_pack_folder(path: str | Path) -> None:
    """Checks that a path is the folder of a language pack.

    Raises:
        FileNotFoundError: If it does not exist.
        ModelError: If it is a file, or a folder without the description of a pack.
    """
    path = Path(path)
    _check_folder(path, "a language pack")
    if not (path / PACK).is_file():
        facts = {"a training run, ": (path / CHECKPOINTS).is_dir(), "a model, ": (path / MODEL_CONFIG).is_file()}
        what = next((fact for fact, holds in facts.items() if holds), f"no {PACK} here: ")
        raise ModelError(f"{path}: {what}not a language pack; python -m glmja.export --format adapter writes one")


def list_names(names: Sequence[str]) -> str:
    """Returns the first three names of a list for a message, and whether there are more."""
    return ", ".join([*names[:3], *["…"] * (len(names) > 3)])


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(weights)) for weights in _WEIGHTS)


def _check_folder(path: Path, wanted: str) -> None:
    if path.is_file():
        raise ModelError(f"{path}: a file, not the folder of {wanted}; give the folder that holds it")
    if not path.exists():
        if _HUB_ID.fullmatch(str(path)) and not path.parent.exists():
            raise FileNotFoundError(
                f"no such folder: {path}; for the model of this name on the Hugging Face Hub, run "
                f"`hf download {path}` and give the folder that it prints"
            )
        raise FileNotFoundError(f"no such folder: {path}")


def _of_hub_cache(path: Path) -> Iterator[str]:
    snapshots = sorted(folder for folder in path.glob("snapshots/*") if folder.is_dir())
    if snapshots:
        yield f"an entry of the Hub's cache, not a model; give the snapshot in it, {snapshots[-1]}"
    if path.name == "snapshots" and (entries := sorted(folder for folder in path.iterdir() if folder.is_dir())):
        yield f"holds the snapshots of a model; give one of them, {entries[-1]}"
    if models := sorted(path.glob(_HUB_CACHE)):
        yield f"the Hub's cache, not a model; give the snapshot of one, as in {models[0]}/snapshots/…"


def _of_run(path: Path) -> Iterator[str]:
    if (path / CHECKPOINTS).is_dir() or (path / RUN_CONFIG).is_file():
        yield f"a training run, not a model; write its model with python -m glmja.export --checkpoint {path}"
    if (path / CHECKPOINT_MANIFEST).is_file():
        yield f"a checkpoint of a run, not a model; write its model with python -m glmja.export --checkpoint {path}"
    if path.name == CHECKPOINTS and any(path.glob(CHECKPOINT)):
        yield f"checkpoints of a run, not a model; write it with python -m glmja.export --checkpoint {path.parent}"
    if (path / PACK).is_file():
        yield f"a language pack, not a model; python -m glmja.export --pack {path} makes one with its base"


def _of_other_weights(path: Path) -> Iterator[str]:
    if (path / "adapter_config.json").is_file():
        yield "adapters of peft without their model; merge them into it (merge_and_unload) and save the result"
    if gguf := sorted(path.glob("*.gguf")):
        yield f"weights for llama.cpp ({gguf[0].name}), which are not read; give the model that they were made from"


def _of_folder_around(path: Path) -> Iterator[str]:
    inner = sorted(config.parent for config in path.glob(f"*/{MODEL_CONFIG}"))
    if inner and not any(path.glob("tokenizer*")):
        yield f"no {MODEL_CONFIG} here; did you mean {' or '.join(map(str, inner[:2]))}?"
