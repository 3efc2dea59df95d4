"""For the long tests, which ``make soak`` runs: real nodes as in ``tests/e2e``, and a table at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("e2e", "network")]

COLUMNS = ("what was done", "outcome", "seconds", "what came of it")


@pytest.fixture(scope="session")
def rounds_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], int]:
    """How many rounds six peers need so many seconds for on this machine, when nothing fails; at least thirty."""
    from soak_world import pace_of_six

    pace = pace_of_six(tmp_path_factory.mktemp("pace"))
    return lambda seconds: max(30, math.ceil(seconds / pace))


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Sets a cell of the table: ``what`` was done, or what came of it in ``notes``."""
    return record_property


def pytest_terminal_summary(terminalreporter: Any) -> None:
    done = [
        (cells["what"], outcome, f"{report.duration:.0f}", cells.get("notes", ""))
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if (cells := dict(report.user_properties)).get("what")
    ]
    if not done:
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *done, strict=True)]
    terminalreporter.section("soak")
    for line in (COLUMNS, *done):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
