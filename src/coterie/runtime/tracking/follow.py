"""The process that feeds one tracker: it follows a run directory until it is told that the run is over."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from coterie.runtime.peer_metrics import NewRecords
from coterie.runtime.results import RunDirectory
from coterie.runtime.tracking.figures import Figures, Rounds

_LOOK = 0.5
"""Seconds between two looks at the run directory."""
_LATER = 5.0
"""Seconds until another attempt, where the tracker does not take anything."""


class Tracker(Protocol):
    """Where figures go. Each method may raise; what was given then is given again."""

    def rounds(self, rounds: Sequence[tuple[int, Figures]]) -> None:
        """Take the figures of rounds, by number, in order. What it has already is left out."""

    def finish(self) -> None:
        """Take what the run came to; it may be called again where it has raised."""


class Reader:
    """The lines of ``metrics.jsonl``, as they come, as rounds."""

    def __init__(self, run: RunDirectory, peers: int) -> None:
        self._records, self._rounds = NewRecords(run.path / "metrics.jsonl"), Rounds(peers)

    def new(self) -> list[tuple[int, Figures]]:
        """The rounds that are over since the last look. Raises DataError for a damaged file."""
        return [over for record in self._records.take() for over in self._rounds.add(record)]

    def rest(self) -> list[tuple[int, Figures]]:
        """All that is there, rounds of which some peers have not told as well."""
        return [*self.new(), *self._rounds.rest()]


def feed(tracker: Tracker, reader: Reader, wait: Callable[[float], bool], trouble: Callable[[Exception], None]) -> bool:
    """Feed the tracker until ``wait(seconds)`` says that the run is over; whether it took everything.

    ``trouble``: told of each attempt that has failed. What failed is tried again, later.
    """
    waiting: list[tuple[int, Figures]] = []
    pause = _LOOK
    while True:
        over = wait(pause)
        waiting += reader.rest() if over else reader.new()
        try:
            if waiting:
                tracker.rounds(waiting)
                waiting.clear()
            if over:
                tracker.finish()
        except Exception as error:  # whatever a server, a disk or a library makes of it, the run must not suffer
            trouble(error)
            pause = _LATER
            if over:
                return False
        else:
            pause = _LOOK
            if over:
                return True


def main(name: str, folder: str, peers: str) -> int:
    """``python -m coterie.runtime.tracking NAME RUN PEERS``. A line on standard input says that the run is over, its
    end that nobody is there any more. Lines of JSON on standard output say what went wrong."""
    run = RunDirectory(Path(folder))

    def wait(seconds: float) -> bool:
        if not select.select([sys.stdin], [], [], seconds)[0]:
            return False
        if not sys.stdin.readline():
            raise SystemExit(0)
        return True

    def trouble(error: Exception) -> None:
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        print(json.dumps({"trouble": text[:500]}), flush=True)  # noqa: T201 - the way to the run

    if name == "tensorboard":
        from coterie.runtime.tracking.tensorboard import TensorBoard

        tracker: Tracker = TensorBoard(run)
    else:
        from coterie.runtime.tracking.mlflow import MLflow

        tracker = MLflow(run)
    return 0 if feed(tracker, Reader(run, int(peers)), wait, trouble) else 1
