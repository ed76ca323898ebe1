"""What a run leaves beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from glmja.json_file import read_json


def model_dir(run_dir: Path) -> Path:
    """The folder of the model that a run began with, as its configuration names it.

    Raises:
        ValueError: If there is no such configuration, or no such folder.
    """
    path = run_dir / "config.yaml"
    try:
        named = Path(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["model_dir"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{path} does not tell which model the run began with; give it with --model") from None
    if not named.is_dir():
        raise ValueError(f"{path} names the model {named}, which is not here; give it with --model")
    return named


def last_scores(run_dir: Path, step: int) -> dict[str, float]:
    """The last validation up to a step, from the TensorBoard files; empty if there are none."""
    folder = run_dir / "tensorboard"
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore  # noqa: PLC0415 - a second

    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    scores = {}
    for tag in sorted(tag for tag in events.Tags()["scalars"] if tag.startswith("val/")):
        values = [event.value for event in events.Scalars(tag) if event.step <= step]
        if values:
            scores[tag] = round(values[-1], 6)
    return scores


def ledger(run_dir: Path) -> dict[str, Any] | None:
    """Where the run's tokens came from, if it kept account."""
    path = run_dir / "ledger.json"
    return read_json(path) if path.is_file() else None
