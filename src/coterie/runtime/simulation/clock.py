"""Virtual time: an asyncio event loop in which waiting takes no time.

asyncio asks its selector to wait with timeout 0 while a callback is ready; any other timeout means that this instant is
over, and the clock jumps to the next timer or event. Nothing here reads a real clock: a run is decided by its inputs
alone.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

from coterie.errors import Deadlock


class _InstantSelector(selectors.SelectSelector):
    """Instead of waiting for sockets, ends the instant."""

    def __init__(self, loop: VirtualLoop, stop: threading.Event, now: float) -> None:
        super().__init__()
        self.now = now
        self.stop = stop
        self.new_timer = False
        self.events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if timeout is not None and timeout <= 0:
            return []
        end = None if timeout is None else self.now + timeout
        events, loop = self.events, self._loop
        self.new_timer = False
        while events and (end is None or events[0][0] <= end):
            when, _, function, arguments = heapq.heappop(events)
            self.now = max(when, self.now)
            try:
                function(*arguments)
            except Exception as error:
                loop.call_exception_handler({"message": "an event failed", "exception": error})
                return []
            if loop.busy or self.new_timer:
                return []
        if end is None:
            raise Deadlock("every peer waits, and no message, timer or job will ever wake one")
        self.now = end
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` is virtual. Threads have no virtual time: using them raises RuntimeError.

    It starts at ``now`` seconds. Once ``stop`` is set, from another thread or a signal handler, the loop raises
    KeyboardInterrupt between two steps.
    """

    def __init__(self, stop: threading.Event | None = None, now: float = 0.0) -> None:
        self.instants = _InstantSelector(self, stop or threading.Event(), now)
        self._thread = threading.get_ident()
        self._order = count()
        super().__init__(self.instants)

    def time(self) -> float:
        return self.instants.now

    @property
    def busy(self) -> bool:
        """Whether a callback is ready in this instant."""
        return bool(self._ready)  # type: ignore[attr-defined]  # private to asyncio

    def at(self, when: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function`` at a time: an event. It cannot be taken back, and is cheaper than a timer.

        Events come before timers of the same instant, and among themselves in the order they were set.
        """
        heapq.heappush(self.instants.events, (when, next(self._order), function, arguments))

    def call_at(  # type: ignore[override]  # typeshed ties args to the callback
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.instants.new_timer = True
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]  # as above
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise RuntimeError("another thread cannot wake a loop of virtual time")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, *args: Any) -> NoReturn:  # type: ignore[override]  # it never runs
        raise RuntimeError("threads have no virtual time; make the work a job")
