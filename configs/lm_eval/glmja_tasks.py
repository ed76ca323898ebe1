"""Functions of the task files beside this one, for lm-evaluation-harness; see docs/evaluation.md.

The prompts begin with `[gMASK]<sop>`, so the tokenizer must not add these ids itself: `add_bos_token=False`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

PREFIX = "[gMASK]<sop>"
_HERE = Path(__file__).parent
_TEXTS = _HERE.parents[1] / "glmja" / "twin" / "texts"  # short texts that ship with the package


def documents(language: str, add_bos_token: Any = None, texts: dict[str, str] | None = None, **_: Any) -> DatasetDict:
    """Returns the documents of a language.

    Args:
        language: `ja` or `zh`.
        add_bos_token: Argument of the harness's model; must be false.
        texts: JSON lines with a `text` for each language, instead of those that ship with the package.

    Raises:
        ValueError: If the tokenizer would put the prefix before each prompt a second time.
    """
    _check_prefix(add_bos_token)
    return _read(Path((texts or {}).get(language, _TEXTS / f"{language}.jsonl")))


def questions(language: str, add_bos_token: Any = None, **_: Any) -> DatasetDict:
    """Returns the questions of a language, each with four answers of which one is right; raises as `documents`."""
    _check_prefix(add_bos_token)
    return _read(_HERE / f"choice_{language}.jsonl")


def text_of(document: dict[str, Any]) -> str:
    """Returns the text of a document."""
    return document["text"]


def prompt_of(question: dict[str, Any]) -> str:
    """Returns the prompt of a question."""
    return PREFIX + question["question"]


def bits(document: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Returns the log-likelihood of a document in nats, and its number of characters."""
    return {"bits_per_char": (results[0][0], len(document["text"]))}


def bits_per_char(items: Sequence[tuple[float, int]]) -> float:
    """Returns the bits per character of all documents together."""
    nats, characters = (sum(values) for values in zip(*items, strict=True))
    return -nats / math.log(2) / characters


def _check_prefix(add_bos_token: Any) -> None:
    if str(add_bos_token).lower() != "false":
        raise ValueError(
            f"these tasks write {PREFIX} themselves: add add_bos_token=False to --model_args, or the model reads the "
            "prefix twice"
        )


def _read(path: Path) -> DatasetDict:
    lines = path.read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines if line.strip()])})
