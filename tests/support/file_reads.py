"""Counts how often files are opened."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_counters: list[Counter[Path]] = []


def _count(event: str, args: tuple) -> None:
    if event == "open" and _counters and isinstance(args[0], str | bytes):
        path = Path(os.fsdecode(args[0])).resolve()
        for counter in _counters:
            counter[path] += 1


@contextmanager
def counted_opens() -> Iterator[Counter[Path]]:
    """Counts every file that Python opens in this process, by its resolved path."""
    if not getattr(sys, "_counts_opens", False):  # an audit hook cannot be removed, so there is one
        sys.addaudithook(_count)
        sys._counts_opens = True  # type: ignore[attr-defined]
    counter: Counter[Path] = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


def reads_of(counter: Counter[Path], folder: Path) -> tuple[int, int]:
    """How often the config and the tokenizer of a model folder were opened."""
    return counter[(folder / "config.json").resolve()], counter[(folder / "tokenizer.model").resolve()]
