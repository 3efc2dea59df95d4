"""Ctrl-C during a run: it ends between two steps, and leaves what can be gone on with."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


def interruptible(work: Callable[[threading.Event], T]) -> T:
    """Do the work so that Ctrl-C ends it between two steps of the simulation, and a second one at once.

    Where this thread runs an event loop, as in a notebook, the work gets a thread of its own.
    """
    stop = threading.Event()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with _stopping_on_interrupt(stop):
            return work(stop)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="coterie-run")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@contextmanager
def _stopping_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """SIGINT sets ``stop``: an exception raised in whatever happens to run could be swallowed there."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
