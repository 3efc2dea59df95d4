"""Real ``coterie`` processes for the end-to-end tests: started, watched and, where a test says so, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE = 120.0
"""Seconds after which a process hangs: far more than a loaded machine needs."""
COTERIE = (sys.executable, "-c", "from coterie.cli import main; main()")

SPEC = """
[federation]
name = "small"
peers = 6
rounds = {rounds}
seed = 1
[data]
dataset = "digits"
[model]
name = "softmax"
[training]
local_steps = 2
[network]
latency_ms = 30.0
loss = 0.05
[faults]
crashes_per_minute = 6.0
restart_seconds = 0.5
"""
"""Latency, lost messages and crashes; ``rounds`` to fill in."""
ENDLESS = 1_000_000


@dataclass
class Done:
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object of ``--json``."""
        return json.loads(self.out)


@dataclass
class Running:
    """A process of a group of its own, as a shell would start it."""

    process: subprocess.Popen[str]

    def end(self, deadline: float = DEADLINE) -> Done:
        out, err = self.process.communicate(timeout=deadline)
        return Done(self.process.returncode, out, err)

    def interrupt(self) -> None:
        """Ctrl-C: the signal goes to the whole group, workers included."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def children(self) -> list[int]:
        return [pid for pid, parent in _parents() if parent == self.process.pid]


@contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[Running]:
    """A process in ``folder``; killed with its group at the end, if it lives."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(folder: Path, *arguments: str, deadline: float = DEADLINE) -> Done:
    """``coterie ARGUMENTS`` in ``folder``, to its end."""
    with started([*COTERIE, *arguments], folder) as running:
        return running.end(deadline)


def python(folder: Path, script: str, deadline: float = DEADLINE) -> Done:
    """A script of a user's own, as a file in ``folder``, to its end."""
    (folder / "script.py").write_text(script)
    with started([sys.executable, "script.py"], folder) as running:
        return running.end(deadline)


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The condition's value once it is true. Fails, naming ``what``, when it stays false."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {deadline} s")


def has_lines(path: Path) -> Callable[[], bool]:
    """Whether a run has written metrics: it is in the middle of its rounds."""
    return lambda: path.exists() and path.stat().st_size > 0


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    return any(found == pid for found, _ in _parents())


def _parents() -> Iterator[tuple[int, int]]:
    """(process, its parent) for all that run, from /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if state not in "ZX":
            yield int(path.parent.name), int(parent)
