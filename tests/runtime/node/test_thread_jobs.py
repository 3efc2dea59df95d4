"""Jobs of a real peer, and what becomes of them when it is stopped."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from coterie.runtime.node.jobs import ThreadJobs


class HeldRunner:
    """Does a job once it is let go."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()

    def begin(self, tickets: list[Any]) -> None:
        self.begun.set()
        self.free.wait(30)
        for ticket in tickets:
            ticket.done = True


def test_a_job_that_is_dropped_at_the_end_is_no_error() -> None:
    reports, errors, runner = list[Any](), list[Any](), HeldRunner()

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        jobs: Any = ThreadJobs(runner, lambda: None)
        for _ in range(2):
            jobs.defer(0, "evaluate", reports.append)
        await asyncio.to_thread(runner.begun.wait, 30)
        runner.free.set()
        jobs.close()
        while not reports:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(work(), 60))
    assert (len(reports), errors) == (1, [])
