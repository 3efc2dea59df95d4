"""Virtual time: an asyncio event loop in which waiting takes no time.

asyncio asks its selector to wait with timeout 0 while a callback is ready; any other timeout means that this instant is
over, and the clock jumps to the next timer. Nothing here reads a real clock: a run is decided by its inputs alone.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from coterie.errors import Deadlock


class _InstantSelector(selectors.SelectSelector):
    """Instead of waiting for sockets, ends the instant."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self.now = 0.0
        self.stop = stop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if timeout is None:
            raise Deadlock("every peer waits, and no message, timer or job will ever wake one")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` is virtual. Threads have no virtual time: using them raises RuntimeError.

    Once ``stop`` is set, from another thread or a signal handler, the loop raises KeyboardInterrupt between two steps.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.instants = _InstantSelector(stop or threading.Event())
        self._thread = threading.get_ident()
        super().__init__(self.instants)

    def time(self) -> float:
        return self.instants.now

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise RuntimeError("another thread cannot wake a loop of virtual time")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("threads have no virtual time; make the work a job")
