"""What holds for all tests: hypothesis tries the same examples every time, however slow the machine is.

What a test counted stands at the end of the run, before pytest's own last lines: see ``record_count``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("unseen", derandomize=True, deadline=None)
settings.load_profile("unseen")

_COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = {}


@pytest.fixture
def record_count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Say how many of something a test has tried: ``record_count("bad grants refused", 2391)``."""

    def record(what: str, count: int) -> None:
        request.config.stash[_COUNTS][what] = count

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = terminalreporter.config.stash[_COUNTS]
    if counts:
        terminalreporter.section("counted")
    for what, count in counts.items():
        terminalreporter.write_line(f"{count:>11,}  {what}")
