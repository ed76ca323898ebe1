"""Cases of large families: the default run tries a part that changes each day, `-m slow` the others.

The ids of the drawn cases name them. `GLMJA_TEST_DAY=2026-01-31 pytest` tries the cases of another day.
"""

import os
import random
from collections.abc import Hashable, Iterable, Sequence
from datetime import UTC, datetime

import pytest

# processes that xdist starts inherit it: all collect the same cases, even around midnight
DAY = os.environ.setdefault("GLMJA_TEST_DAY", datetime.now(UTC).date().isoformat())


def of_the_day(family: str) -> random.Random:
    """Returns random numbers that depend on the day and on the name of a family of cases."""
    return random.Random(f"{DAY} {family}")


def drawn(family: str, cases: Iterable[tuple], number: int) -> list:
    """Returns parameters of all cases, marked slow except for some of the day."""
    cases = list(cases)
    kept = set(of_the_day(family).sample(range(len(cases)), number))
    return [_param(case, i in kept) for i, case in enumerate(cases)]


def drawn_pairs(family: str, rows: Iterable[Hashable], columns: Iterable[Hashable]) -> list:
    """Returns parameters of all pairs, marked slow except for some of the day, in which each row and column occurs.

    A column that is a tuple is several parameters.
    """
    first, second = list(rows), list(columns)
    kept = _cover(family, len(first), len(second))
    return [
        _param((row, *column) if isinstance(column, tuple) else (row, column), (i, j) in kept)
        for i, row in enumerate(first)
        for j, column in enumerate(second)
    ]


def _cover(family: str, num_rows: int, num_columns: int) -> set[tuple[int, int]]:
    """Draws the fewest pairs of numbers with which each row and each column occurs."""
    rng, size = of_the_day(family), max(num_rows, num_columns)
    return set(zip(_shuffled(rng, num_rows, size), _shuffled(rng, num_columns, size), strict=True))


def _shuffled(rng: random.Random, count: int, size: int) -> Sequence[int]:
    """Returns `size` numbers below `count` in random order, each about equally often."""
    numbers = [i % count for i in range(size)]
    rng.shuffle(numbers)
    return numbers


def _param(case: tuple, kept: bool):
    return pytest.param(*case, marks=[] if kept else pytest.mark.slow)
