"""The figures of an arm, kept as JSON so that arms can be added later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.proof.curve import Bits
from benchmarks.proof.settings import ARMS, Scale

BASE = "base"


@dataclass(frozen=True)
class Result:
    """Measurements of a run.

    Attributes:
        arm: Name of the arm; `base` for the model before all of them.
        seed: Seed of the run.
        scale: Settings of the proof, as a text; only runs with the same ones can be compared.
        steps: Optimizer steps.
        tokens: Tokens that were trained on.
        flops: Operations by what they were for.
        characters: Characters that were read, by language; of `base`, characters of each window.
        cpu_seconds: Processor time of training.
        bits: Bits of each window and language, by the share of the budget.
    """

    arm: str
    seed: int
    scale: str
    steps: int
    tokens: int
    flops: dict[str, float]
    characters: dict[str, list[int]]
    cpu_seconds: float
    bits: dict[str, Bits]

    def at(self, share: float, lang: str) -> NDArray[np.float64]:
        """Returns the bits of each window at a share of the budget."""
        return np.array(self.bits[str(share)][lang])


def describe(scale: Scale) -> str:
    """Returns settings as a text."""
    return json.dumps(asdict(scale), sort_keys=True)


def save(result: Result, path: Path) -> None:
    """Writes a result, with a line for each list of bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), ensure_ascii=False).replace('}, "', '},\n"').replace('], "', '],\n"')
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.rename(path)


def load(path: Path, scale: Scale) -> Result:
    """Reads a result.

    Raises:
        ValueError: If it was measured with other settings.
    """
    result = Result(**json.loads(path.read_text(encoding="utf-8")))
    if result.scale != describe(scale):
        raise ValueError(f"{path} was measured with other settings; give another folder as --results, or remove it")
    return result


def load_all(folder: Path, scale: Scale) -> Mapping[str, list[Result]]:
    """Reads all results of a folder, by arm: the base, then in the order of `ARMS`, then arms that are not there."""
    names = [BASE, *(arm.name for arm in ARMS)]
    results = [load(path, scale) for path in sorted(folder.glob("*.json"))]
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: ((*names, result.arm).index(result.arm), result.seed)):
        found.setdefault(result.arm, []).append(result)
    return found
