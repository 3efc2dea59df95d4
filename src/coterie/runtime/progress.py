"""What a run tells while it goes on: a live line on a terminal, a plain line now and then elsewhere, or nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from coterie.runtime.results import Result
from coterie.spec import Spec


class Progress(Protocol):
    """Told by the runtime what a run has done. With several seeds, ``start`` to ``finish`` once a seed."""

    def start(self, spec: Spec, peers: int) -> None:
        """A run begins; ``spec.seed`` says which."""

    def round_done(self, round: int, rounds: int, accuracies: Sequence[float], bytes_sent: int) -> None:
        """Round ``round`` (from 1) of ``rounds`` is over; ``accuracies`` of honest peers, empty if not evaluated."""

    def finish(self, result: Result) -> None:
        """The run is over."""


class Quiet:
    """Says nothing."""

    def start(self, spec: Spec, peers: int) -> None:
        pass

    def round_done(self, round: int, rounds: int, accuracies: Sequence[float], bytes_sent: int) -> None:
        pass

    def finish(self, result: Result) -> None:
        pass


class RichProgress:
    """A live line on standard error; where that is no terminal, a plain line every ``interval`` seconds.

    A context manager: the terminal is restored also where a run ends with an error.
    """

    def __init__(
        self, console: Console | None = None, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True)
        self._interval, self._clock = interval, clock
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._name, self._peers = "", 0
        self._accuracy = ""
        self._started = self._spoken = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(self, spec: Spec, peers: int) -> None:
        self._stop()
        self._name = f"{spec.federation.name}, seed {spec.seed}"
        self._peers, self._accuracy = peers, ""
        self._started = self._spoken = self._clock()
        self._first: int | None = None
        if self._console.is_terminal:
            self._bar = live_bar(self._console)
            self._task = self._bar.add_task(escape(self._name), total=spec.federation.rounds, figures="")
            self._bar.start()
        else:
            self._say(f"{self._name}: {peers} peers, {spec.federation.rounds} rounds, {spec.federation.protocol}")

    def round_done(self, round: int, rounds: int, accuracies: Sequence[float], bytes_sent: int) -> None:
        if accuracies:
            low, mean, high = min(accuracies), statistics.fmean(accuracies), max(accuracies)
            self._accuracy = f"accuracy {mean:.3f} ({low:.3f} to {high:.3f})"
        figures = ", ".join(part for part in (self._accuracy, f"{size(bytes_sent)} sent by all") if part)
        if self._bar is not None:
            self._bar.update(self._task, completed=round, total=rounds, figures=figures)
            return
        now = self._clock()
        self._first = round if self._first is None else self._first  # not 1 in a run that goes on
        if now - self._spoken >= self._interval or round == rounds:
            self._spoken = now
            elapsed, done = now - self._started, round - self._first + 1
            left = f", {duration(elapsed * (rounds - round) / done)} left" if 0 < round < rounds else ""
            self._say(f"{self._name}: round {round}/{rounds}, {figures}, {duration(elapsed)}{left}")

    def finish(self, result: Result) -> None:
        self._stop()
        if not result.ok:
            what = result.error["what"] if result.error else "it failed"
            self._say(f"{self._name}: failed: {what}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def live_bar(console: Console) -> Bar:
    """The live line: description, bar, how many of how many, the field ``figures``, time gone and time left."""
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TimeRemainingColumn()]
    return Bar(*columns, console=console, transient=True)


def size(count: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
