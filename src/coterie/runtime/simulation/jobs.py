"""Waiting peers are a batch.

A job begun at t is seen at t + cost, never before. So nothing is run until the clock would reach the first end; then
all waiting jobs run together. Jobs of one lane (one peer) run in the order they were begun, on one worker; jobs of
different lanes touch nothing in common.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from coterie.runtime.simulation.clock import VirtualLoop


class Executor(Protocol):
    """Runs lanes of jobs; the outcome of a job is its result or the exception it raised."""

    def __call__(self, lanes: Sequence[Sequence[Any]]) -> list[list[Any]]: ...


class _Waiting:
    __slots__ = ("future", "job", "keep")

    def __init__(self, job: Any, future: asyncio.Future[Any], keep: object) -> None:
        self.job, self.future, self.keep = job, future, keep


class Jobs:
    """The batcher of one simulation."""

    def __init__(self, loop: VirtualLoop, execute: Executor) -> None:
        self._loop, self._execute = loop, execute
        self._lanes: dict[int, list[_Waiting]] = {}
        self._first = math.inf
        loop.instants.flush = self._flush
        self.batches = 0
        self.jobs = 0

    async def run(self, lane: int, job: Any, cost: float, keep: object = None) -> Any:
        """The job's result, ``cost`` virtual seconds from now. ``keep`` lives until the job has run."""
        due = self._loop.time() + cost
        waiting = self._add(lane, job, keep)
        self._first = min(self._first, due)
        result = await waiting.future
        if due > self._loop.time():
            await asyncio.sleep(due - self._loop.time())
        return result

    def defer(self, lane: int, job: Any, done: Callable[[Any], None]) -> None:
        """Run the job with the next batch, before later jobs of its lane; ``done(result)`` is called after it."""

        def finish(future: asyncio.Future[Any]) -> None:
            if not future.cancelled():
                done(future.result())

        self._add(lane, job, None).future.add_done_callback(finish)

    def drop(self, lane: int) -> None:
        """Forget what waits in a lane: its peer has crashed."""
        for waiting in self._lanes.pop(lane, ()):
            waiting.future.cancel()

    def flush(self) -> None:
        """Run whatever waits, now."""
        self._flush(None)

    def _add(self, lane: int, job: Any, keep: object) -> _Waiting:
        waiting = _Waiting(job, self._loop.create_future(), keep)
        self._lanes.setdefault(lane, []).append(waiting)
        return waiting

    def _flush(self, until: float | None) -> bool:
        if not self._lanes or (until is not None and until < self._first):
            return False
        lanes, self._lanes, self._first = self._lanes, {}, math.inf
        self.batches += 1
        outcomes = self._execute([[waiting.job for waiting in lane] for lane in lanes.values()])
        for lane, results in zip(lanes.values(), outcomes, strict=True):
            for waiting, result in zip(lane, results, strict=True):
                self.jobs += 1
                if waiting.future.done():
                    continue
                if isinstance(result, BaseException):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)
        return True
