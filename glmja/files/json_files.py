"""JSON files and lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glmja.errors import DataError, ModelError
from glmja.files.placeholders import describe_error_object, describe_placeholder


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a JSON object in UTF-8, or the message of a server that was saved in its place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        placeholder = describe_placeholder(path)
        raise ModelError(f"{path}: {placeholder or f'not JSON that Python can read ({error})'}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    if message := describe_error_object(content):
        raise ModelError(f"{path}: {message}")
    return content


def parse_json(text: str, place: str) -> Any:
    """Parses a line of JSON.

    Args:
        text: The line.
        place: Place of the line, `path:number`, for error messages.

    Raises:
        ValueError: If it is not JSON, or not JSON that Python can read; the message begins with the place.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise DataError(f"{place}: not JSON that Python can read ({error})") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object, indented and in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
