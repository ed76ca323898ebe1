"""What a run leaves beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from glmja.files.json_files import read_json


def model_dir(run_dir: Path) -> Path:
    """The folder of the model that a run began with, as its configuration names it.

    Raises:
        ValueError: If there is no such configuration, or no such folder.
    """
    path = run_dir / "config.yaml"
    try:
        named = Path(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["model_dir"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{path} does not tell which model the run began with; give it as `model`") from None
    if not named.is_dir():
        raise ValueError(f"{path} names the model {named}, which is not here; give it as `model`")
    return named


def last_scores(run_dir: Path, step: int) -> dict[str, float]:
    """The last validation up to a step, from the TensorBoard files; empty if there are none."""
    scores = {}
    for tag, points in _scalars(run_dir).items():
        values = [value for at, value in points if at <= step]
        if tag.startswith("val/") and values:
            scores[tag] = round(values[-1], 6)
    return scores


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Training loss and bits per character over the run's steps, (step, value) by tag.

    Raises:
        ValueError: If the run left none.
    """
    found = {
        tag: points
        for tag, points in _scalars(run_dir).items()
        if tag == "train/loss" or tag.endswith("/bits_per_char")
    }
    if not found:
        raise ValueError(f"{run_dir} has no curves: no TensorBoard files of a run are in {run_dir / 'tensorboard'}")
    return found


def _scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    folder = run_dir / "tensorboard"
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore  # noqa: PLC0415 - a second

    # by default a curve of more than 10,000 points is thinned at random
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])}


def ledger(run_dir: Path) -> dict[str, Any] | None:
    """Where the run's tokens came from, if it kept account."""
    path = run_dir / "ledger.json"
    return read_json(path) if path.is_file() else None
