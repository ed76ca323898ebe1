import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from glmja.files.progress import progress, progress_state


def test_a_log_gets_a_line_every_so_many_seconds_with_rate_and_time_left(capsys):
    with progress("m[/x]: answers", 8, "answers", seconds_per_line=0.05) as advance:
        for _ in range(8):
            time.sleep(0.02)
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    for line in lines:
        assert re.fullmatch(r"m\[/x\]: answers: \d of 8 answers \(\d+ %\), \d+ answers/s, 0:00:00 left", line)


def test_short_work_and_work_without_a_description_have_no_line(capsys):
    with progress("writing", 10) as advance:
        advance(10)
    with progress(None, 10, seconds_per_line=0) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_standard_error(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with progress("m[v2] :car:", 4, "rows", seconds_per_line=0) as advance:
        advance(4)
    out, error = capsys.readouterr()
    assert out == "" and "m[v2] :car:" in error and "4 of 4 rows" in error


def test_work_of_several_threads_adds_up(capsys):
    with progress("writing", 400, "rows", seconds_per_line=0) as advance, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: advance(1), range(400)))
    assert "400 of 400 rows (100 %)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((3, 8, "rows", 2.0), "3 of 8 rows (38 %), 1.5 rows/s, 0:00:03 left"),
        ((2_000_000, 8_000_000, "bytes", 2.0), "2.0 MB of 8.0 MB (25 %), 1.0 MB/s, 0:00:06 left"),
        ((5000, 36_005_000, "ids", 5.0), "5,000 of 36,005,000 ids (0 %), 1,000 ids/s, 10:00:00 left"),
        ((0, 8, "rows", 2.0), "0 of 8 rows (0 %), 0 rows/s"),
        ((9, 8, "rows", 1.0), "9 of 8 rows (112 %), 9 rows/s, 0:00:00 left"),
        ((0, 0, "rows", 0.0), "0 rows, 0 rows/s"),
    ],
)  # fmt: skip
def test_the_state_names_amounts_share_rate_and_time_left(given, expected):
    assert progress_state(*given) == expected
