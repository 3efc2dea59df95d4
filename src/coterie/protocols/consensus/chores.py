"""Timers and tasks of one coroutine: started, replaced, and ended together; what fails in one fails the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Chores:
    """``fail`` is called with what a task or a timer's function raises."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Future[None]] = []

    def later(self, kind: str, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` so many seconds from now, in place of what was to be called for this ``kind``."""
        if (timer := self._timers.pop(kind, None)) is not None:
            timer.cancel()
        self._timers[kind] = asyncio.get_running_loop().call_later(seconds, self._call, kind, function)

    def awaits(self, kind: str) -> bool:
        """Whether a timer of this kind runs."""
        return kind in self._timers

    def begin(self, work: Awaitable[None]) -> None:
        """Do some work beside everything else."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def cancel_tasks(self) -> None:
        """All but the one that this is called in."""
        this = asyncio.current_task()
        for task in list(self._tasks):
            if task is not this:
                task.cancel()

    def clear(self) -> None:
        """End everything, timers too."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers = {}
        self.cancel_tasks()

    def _call(self, kind: str, function: Callable[[], None]) -> None:
        self._timers.pop(kind, None)
        try:
            function()
        except Exception as error:
            self._fail(error)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
