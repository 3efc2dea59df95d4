"""What a matrix tells while it goes on: a live line on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from coterie.runtime.progress import duration, live_bar
from coterie.runtime.results import Result


class MatrixProgress:
    """Counts runs on standard error. A context manager: the terminal is restored also after an error."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._quiet, self._interval, self._clock = quiet, interval, clock
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._total = self._before = self._done = self._failed = 0
        self._started = self._spoken = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, total: int, done: int) -> None:
        """``total`` runs in all, of which an earlier call has done so many."""
        self._total, self._before, self._done = total, done, done
        self._started = self._spoken = self._clock()
        if self._quiet:
            return
        if done:
            self._say(f"{done} of {total} runs are done already")
        if self._console.is_terminal:
            self._bar = live_bar(self._console)
            self._task = self._bar.add_task("matrix", total=total, completed=done, figures="")
            self._bar.start()

    def ended(self, what: str, result: Result) -> None:
        """A run has ended: ``what`` says which."""
        self._done += 1
        self._failed += not result.ok
        if self._quiet:
            return
        failures = f"{self._failed} failed" if self._failed else ""
        if not result.ok:
            self._say(f"failed: {what}: {(result.error or {}).get('what', '')}")
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, figures=failures)
            return
        now = self._clock()
        if now - self._spoken >= self._interval or self._done == self._total:
            self._spoken = now
            elapsed, rest = now - self._started, self._total - self._done
            left = f"{duration(elapsed * rest / (self._done - self._before))} left" if rest else ""
            parts = (f"{self._done}/{self._total} runs", failures, duration(elapsed), left)
            self._say("matrix: " + ", ".join(part for part in parts if part))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
