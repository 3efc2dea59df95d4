"""A real peer's jobs: done by one thread beside its event loop, so that it answers others while it trains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from coterie.layout import Snapshot
from coterie.runtime.work.runner import Runner
from coterie.runtime.work.tickets import Ticket


class ThreadJobs:
    """Implements ``Jobs`` in real time: ``cost`` means nothing here. One lane, and jobs in the order they come.

    ``settle`` is called in the thread before a job counts as done.
    """

    def __init__(self, runner: Runner, settle: Callable[[], None]) -> None:
        self._runner, self._settle = runner, settle
        self.seconds: dict[str, tuple[int, float]] = {}
        """By kind of job, such as "fit": how many there were, and seconds in all."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coterie-work")

    async def run(self, lane: int, job: Any, cost: float, keep: object = None, makes: Snapshot | None = None) -> Any:
        return (await self._begin(Ticket(lane, job, keep=(keep, makes)), makes)).result()

    def defer(self, lane: int, job: Any, report: Callable[[Any], None], keep: object = None) -> None:
        def ended(done: asyncio.Future[Ticket]) -> None:
            if not done.cancelled():  # dropped by ``close``
                report(done.result().result())

        self._begin(Ticket(lane, job, keep=keep)).add_done_callback(ended)

    def close(self) -> None:
        """Wait for the job at work; those behind it are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, ticket: Ticket, makes: Snapshot | None = None) -> asyncio.Future[Ticket]:
        """The ticket once it is done; it holds what the job reads, also when nobody waits any more."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._do, ticket, makes)

    def _do(self, ticket: Ticket, makes: Snapshot | None) -> Ticket:
        began, kind = time.monotonic(), type(ticket.job).__name__.removesuffix("Job").lower()
        self._runner.begin([ticket])
        count, seconds = self.seconds.get(kind, (0, 0.0))
        self.seconds[kind] = count + 1, seconds + time.monotonic() - began
        if makes is not None:
            makes.digest()  # remembered: hashing a large model would keep the event loop from answering
        self._settle()
        return ticket
