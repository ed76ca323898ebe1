"""`pytest --cpu 20`: processor seconds of the tests, by room, by file, and of those that take most.

Seconds of the processor do not depend on what else the machine does, and add up over processes. They include child
processes that have ended, and what the fork server and its processes took.
"""

import resource
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest


def processor_seconds() -> float:
    """Returns the seconds that this process and its children have taken."""
    taken = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )  # user and system
    server = forkserver._forkserver._forkserver_pid
    if server:
        times = psutil.Process(server).cpu_times()
        taken += times.user + times.system + times.children_user + times.children_system
    return taken


class CpuSeconds:
    """Notes the seconds since the report before in each report, and shows their sums at the end."""

    def __init__(self, num_tests: int) -> None:
        self.num_tests, self.before = num_tests, processor_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = processor_seconds()
        report.cpu_seconds, self.before = now - self.before, now  # xdist sends it to the process that collects reports
        return report

    def pytest_terminal_summary(self, terminalreporter):
        rooms, files, tests = Counter(), Counter(), Counter()
        reports = [report for found in terminalreporter.stats.values() for report in found]
        for report in reports:
            if seconds := getattr(report, "cpu_seconds", 0):
                path = report.nodeid.partition("::")[0]
                rooms[Path(path).parent.name] += seconds
                files[path] += seconds
                tests[report.nodeid] += seconds
        terminalreporter.section(f"{rooms.total():,.0f} processor seconds")
        for counts, number in ((rooms, None), (files, self.num_tests), (tests, self.num_tests)):
            terminalreporter.write_line("")
            for name, seconds in counts.most_common(number):
                terminalreporter.write_line(f"{seconds:9.1f}  {name}")
