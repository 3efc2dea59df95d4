"""Waiting peers are a batch.

A job begun at t is seen at t + cost, never before. So nothing need be handed out until the clock reaches the first
end, or a worker has nothing to do; then all waiting jobs are handed out together. The simulation goes on meanwhile, and
stops only for a job whose end has come and which is not done yet. What is seen when depends on virtual time alone,
never on which job was done first.

Jobs of one lane (one peer) are done in the order they were begun; jobs of different lanes touch nothing in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coterie.layout import Snapshot
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.work.tickets import Executor, Ticket


class Jobs:
    """The batcher of one simulation."""

    def __init__(self, loop: VirtualLoop, executor: Executor) -> None:
        self._loop, self._executor = loop, executor
        self._waiting: list[Ticket] = []
        self._deferred: dict[int, list[Ticket]] = {}

    async def run(self, lane: int, job: Any, cost: float, keep: object = None, makes: Snapshot | None = None) -> Any:
        """The job's result, ``cost`` virtual seconds from now. ``keep`` and ``makes`` live until the job is done."""
        ticket = Ticket(lane, job, self._loop.time() + cost, (keep, makes))
        self._waiting.append(ticket)
        ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.at(ticket.due, self._end, ticket, ended)
        if self._executor.hungry():
            self._begin_all()
        await ended
        return ticket.result()

    def defer(self, lane: int, job: Any, report: Callable[[Any], None], keep: object = None) -> None:
        """Do the job before later ones of its lane. ``report(result)`` is called when such a later one ends."""
        ticket = Ticket(lane, job, keep=keep, report=report)
        self._waiting.append(ticket)
        self._deferred.setdefault(lane, []).append(ticket)

    def drop(self, lane: int) -> None:
        """Forget what a lane waits for: its peer has crashed. What was deferred before is still done and reported."""
        self._waiting = [ticket for ticket in self._waiting if ticket.lane != lane or ticket.report is not None]

    def finish(self) -> None:
        """Do and report whatever nobody waited for."""
        self._begin_all()
        for lane in sorted(self._deferred):
            self._report(lane)

    def _end(self, ticket: Ticket, ended: asyncio.Future[None]) -> None:
        if ended.done():
            return  # the peer has crashed
        if not ticket.begun:
            self._begin_all()
        if not ticket.begun:
            return  # dropped in a crash, while a task that the crash did not reach waits for it
        self._executor.finish(ticket)
        self._report(ticket.lane)
        ended.set_result(None)

    def _begin_all(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            for ticket in batch:
                ticket.begun = True
            self._executor.begin(batch)

    def _report(self, lane: int) -> None:
        for ticket in self._deferred.pop(lane, ()):
            if not ticket.begun:  # deferred while the job that ends now was already at work
                self._begin_all()
            self._executor.finish(ticket)
            if ticket.report is not None:
                ticket.report(ticket.result())
