"""JSON in files and in their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glmja.errors import DataError, ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise ModelError(f"{path}: not JSON that can be read ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def parse_json(text: str, place: str) -> Any:
    """Parses a line.

    Raises:
        ValueError: If it is not JSON that Python can read; gives the place.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise DataError(f"{place}: not JSON that can be read ({error})") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
