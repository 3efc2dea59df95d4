"""Progress in a notebook, and which progress a call from Python shows."""

from __future__ import annotations

import html
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coterie.runtime.progress import Progress, Quiet, RichProgress, duration, size
from coterie.runtime.results import Result
from coterie.spec import Spec

_INTERVAL = 0.1
"""Least seconds between two pictures of the bar: a browser need not draw each of many short rounds."""


class NotebookProgress:
    """A bar below the cell, which becomes one line when the run is over.

    It is plain HTML, shown once and then updated in place. Rich's own bar needs ipywidgets in the kernel and in the
    browser, and does not follow a run that works in a thread of its own, as a notebook's does.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._handle: Any = None
        self._name, self._figures = "", ""
        self._round = self._rounds = 0
        self._started = self._drawn = 0.0

    def start(self, spec: Spec, peers: int) -> None:
        self._name = f"{spec.federation.name}, seed {spec.seed}"
        self._figures = f"{peers} peers, {spec.federation.protocol}"
        self._round, self._rounds = 0, spec.federation.rounds
        self._started, self._handle = self._clock(), None
        self._draw(self._bar())

    def round_done(self, round: int, rounds: int, accuracies: Sequence[float], bytes_sent: int) -> None:
        self._round, self._rounds = round, rounds
        if accuracies:
            low, mean, high = min(accuracies), statistics.fmean(accuracies), max(accuracies)
            self._figures = f"accuracy {mean:.3f} ({low:.3f} to {high:.3f}), {size(bytes_sent)} sent by all"
        if self._clock() - self._drawn >= _INTERVAL:
            self._draw(self._bar())

    def finish(self, result: Result) -> None:
        self.close("done" if result.ok else "failed")

    def close(self, how: str) -> None:
        """The line that stays, where a bar is still there; ``how`` the run ended."""
        if self._handle is not None:
            elapsed = duration(self._clock() - self._started)
            self._draw(self._line(f"{how}: round {self._round}/{self._rounds}, {self._figures}, {elapsed}"))
            self._handle = None

    def _bar(self) -> str:
        elapsed = self._clock() - self._started
        left = f", {duration(elapsed * (self._rounds - self._round) / self._round)} left" if self._round else ""
        bar = f'<progress value="{self._round}" max="{self._rounds}"></progress>'
        return self._line(f"round {self._round}/{self._rounds}, {self._figures}{left}", bar)

    def _line(self, text: str, bar: str = "") -> str:
        return f"<div>{html.escape(self._name)} {bar} {html.escape(text)}</div>"

    def _draw(self, content: str) -> None:
        from IPython.display import HTML, display  # only a notebook comes here, and it has IPython

        self._drawn = self._clock()
        if self._handle is None:
            self._handle = display(HTML(content), display_id=True)  # type: ignore[no-untyped-call]  # IPython has no types
        else:
            self._handle.update(HTML(content))  # type: ignore[no-untyped-call]  # IPython has no types


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress]:
    """Who is told of a run's progress: see ``coterie.run``. Whatever is on the screen is put away at the end."""
    if isinstance(progress, bool) or progress is None:
        if progress is not False and in_notebook():
            bar = NotebookProgress()
            try:
                yield bar
            finally:
                bar.close("stopped")
        elif progress:
            with RichProgress() as line:
                yield line
        else:
            yield Quiet()
    else:
        yield progress
