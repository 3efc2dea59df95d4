"""One event loop a process, in a thread of its own, for all callbacks of the process.

A script's thread blocks in ``run`` while a coroutine works on the loop. It does not matter what else the script's
thread has: in a notebook another loop runs there. The thread is a daemon, so a script that fails ends.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from coterie.errors import RunError

T = TypeVar("T")
PATIENCE_SECONDS = 5.0
"""How long a cancelled coroutine, and a loop that is being stopped, may take to clean up before they are left."""


class BackgroundLoop:
    """An event loop in a daemon thread. ``shared()`` gives the one of the process."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="coterie-swarm", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closed or not self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What ``coroutine`` returns; the calling thread waits for it. What it raises is raised here, as it is.

        An exception in the waiting thread, such as the KeyboardInterrupt of Ctrl-C, cancels the coroutine, gives it
        ``PATIENCE_SECONDS`` to clean up, and is raised. Raises RunError where the loop is stopped, and where it is
        called on the loop's own thread, which would wait for itself.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        started: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self._loop.create_task(_contained(coroutine))
            started.append(task)
            task.add_done_callback(lambda ended: _hand_over(ended, done))

        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RunError("the event loop would wait for itself", remedy="Call it from another thread.")
        try:
            self._schedule(start)
            return done.result()
        except BaseException:
            if not done.done():  # it is the waiting that was interrupted, not the work that failed
                with contextlib.suppress(RunError):
                    self._schedule(lambda: [task.cancel() for task in started])
                    concurrent.futures.wait([done], PATIENCE_SECONDS)
            if not started:
                coroutine.close()
            raise

    def close(self) -> None:
        """Cancel what runs, and stop. Whoever waits in ``run`` gets a RunError. A second call does nothing."""
        with contextlib.suppress(RunError):
            self._schedule(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE_SECONDS)

    def _schedule(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if self.closed:  # or, in a forked child, never began
                raise RunError("the swarm's event loop has been stopped", remedy="Start the training again.")
            self._loop.call_soon_threadsafe(callback)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with self._lock:
                self._closed = True  # from here on nobody can add to what is cleared away below
            self._loop.run_until_complete(_clear_away())
            self._loop.close()


async def _clear_away() -> None:
    """Cancel all tasks, and wait for them."""
    await asyncio.sleep(0)  # lets what was scheduled begin, so that it can be cancelled
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _contained(coroutine: Coroutine[Any, Any, T]) -> T:
    """An exit or an interrupt in there would end the loop for all callbacks: it becomes an error of this one."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise RunError(f"{type(error).__name__} on the swarm's event loop") from error


def _hand_over(task: asyncio.Task[T], done: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        done.set_exception(RunError("the swarm's event loop was stopped", remedy="Start the training again."))
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_shared: BackgroundLoop | None = None
_sharing = threading.Lock()


def shared() -> BackgroundLoop:
    """The loop of this process, started at the first call and stopped when the process ends."""
    global _shared
    with _sharing:
        if _shared is None or _shared.closed:
            _shared = BackgroundLoop()
            atexit.register(_end)
        return _shared


def _end() -> None:
    """Stop the loop, and let go of all that lived on it: gRPC's own thread must not outlive its last connection, or the
    process may crash while the interpreter ends. An error that ended the script may hold some of it."""
    global _shared
    if _shared is not None:
        _shared.close()
    _shared = None
    error = getattr(sys, "last_value", None)
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _forget() -> None:
    """In a forked child the loop's thread does not exist."""
    global _shared, _sharing
    _shared, _sharing = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
