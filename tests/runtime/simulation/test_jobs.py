"""The batcher: what is done together, when it is seen, and what a crash takes along."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.jobs import Jobs
from coterie.runtime.work.tickets import Ticket, run_all


class Recorder:
    """Does jobs as late as it may, in reverse order, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.pending: list[Ticket] = []

    def begin(self, tickets: Sequence[Ticket]) -> None:
        self.batches.append([ticket.job for ticket in tickets])
        self.pending += tickets

    def hungry(self) -> bool:
        return False

    def finish(self, ticket: Ticket) -> None:
        for waiting in [t for t in self.pending if t.lane == ticket.lane]:
            self.pending.remove(waiting)
            waiting.finish(ValueError("bad job") if waiting.job == "bad" else ("done", waiting.job))
            if waiting is ticket:
                break
        assert ticket.done


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_jobs_run_together_when_the_first_of_them_ends(loop: VirtualLoop) -> None:
    recorder = Recorder()
    jobs = Jobs(loop, recorder)
    seen: list[tuple[int, float, Any]] = []

    async def peer(lane: int, start: float, cost: float) -> None:
        await asyncio.sleep(start)
        result = await jobs.run(lane, f"job {lane}", cost)
        seen.append((lane, loop.time(), result))

    async def main() -> None:
        await asyncio.gather(peer(0, 0, 5), peer(1, 1, 2), peer(2, 2.5, 9), peer(3, 4, 1))

    loop.run_until_complete(main())
    # the first end is that of lane 1, at 3: lanes 0, 1, 2 have begun by then; lane 3 begins later
    assert recorder.batches == [["job 0", "job 1", "job 2"], ["job 3"]]
    assert [(lane, time) for lane, time, _ in seen] == [(1, 3.0), (0, 5.0), (3, 5.0), (2, 11.5)]
    assert all(result == ("done", f"job {lane}") for lane, _, result in seen)


def test_a_deferred_job_goes_before_the_next_of_its_lane_and_reports_with_it(loop: VirtualLoop) -> None:
    recorder, reports = Recorder(), []
    jobs = Jobs(loop, recorder)

    async def main() -> None:
        jobs.defer(0, "look", lambda result: reports.append((loop.time(), result)))
        await asyncio.sleep(1)
        assert reports == []
        await jobs.run(0, "work", 2)
        assert reports == [(3.0, ("done", "look"))]
        jobs.defer(0, "last look", lambda result: reports.append((loop.time(), result)))
        jobs.finish()

    loop.run_until_complete(main())
    assert recorder.batches == [["look", "work"], ["last look"]]
    assert reports[1] == (3.0, ("done", "last look"))


def test_a_job_deferred_while_another_of_its_lane_is_at_work_is_done(loop: VirtualLoop) -> None:
    recorder, reports = Recorder(), list[Any]()
    jobs = Jobs(loop, recorder)

    async def main() -> None:
        work = asyncio.create_task(jobs.run(0, "work", 2))
        await asyncio.sleep(0)
        await jobs.run(1, "first end", 1)  # both are handed out
        jobs.defer(0, "look", reports.append)
        await work

    loop.run_until_complete(main())
    assert recorder.batches == [["work", "first end"], ["look"]]
    assert reports == [("done", "look")]


def test_an_error_of_a_job_reaches_only_who_waits_for_it(loop: VirtualLoop) -> None:
    jobs = Jobs(loop, Recorder())

    async def main() -> tuple[Any, Any]:
        return tuple(await asyncio.gather(jobs.run(0, "bad", 1), jobs.run(1, "good", 1), return_exceptions=True))

    bad, good = loop.run_until_complete(main())
    assert isinstance(bad, ValueError)
    assert good == ("done", "good")


def test_a_crash_takes_what_waits_and_leaves_what_was_deferred(loop: VirtualLoop) -> None:
    recorder, reports = Recorder(), []
    jobs = Jobs(loop, recorder)

    async def main() -> None:
        jobs.defer(0, "look", reports.append)
        early = asyncio.create_task(jobs.run(0, "handed out", 10))
        await asyncio.sleep(0)
        await jobs.run(1, "first end", 1)
        late = asyncio.create_task(jobs.run(0, "dropped", 10))
        await asyncio.sleep(0)
        jobs.defer(0, "last look", reports.append)
        jobs.drop(0)
        for task in (early, late):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await jobs.run(0, "after the restart", 1)

    loop.run_until_complete(main())
    assert recorder.batches == [["look", "handed out", "first end"], ["last look", "after the restart"]]
    assert reports == [("done", "look"), ("done", "last look")]


def test_a_crash_in_the_instant_a_job_ends_waits_for_nothing(loop: VirtualLoop) -> None:
    recorder = Recorder()
    jobs = Jobs(loop, recorder)

    async def main() -> None:
        def crash() -> None:
            jobs.drop(0)
            task.cancel()

        loop.at(5.0, crash)
        task = asyncio.create_task(jobs.run(0, "never begun", 5))
        await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())
    assert recorder.batches in ([], [["never begun"]])


def test_a_dropped_job_that_is_still_waited_for_is_never_done(loop: VirtualLoop) -> None:
    """A protocol's task of its own outlives the crash: nobody may wait for a job that was never handed out."""
    recorder, faults = Recorder(), list[Any]()
    jobs = Jobs(loop, recorder)
    loop.set_exception_handler(lambda _, context: faults.append(context))

    async def main() -> bool:
        orphan = asyncio.create_task(jobs.run(0, "dropped", 2))
        await asyncio.sleep(0)
        jobs.drop(0)
        await jobs.run(1, "another", 5)
        return orphan.cancel()

    assert loop.run_until_complete(main())
    assert (recorder.batches, faults) == ([["another"]], [])


def test_what_a_job_reads_lives_until_it_is_done(loop: VirtualLoop) -> None:
    class Held:
        released = 0

        def __del__(self) -> None:
            Held.released += 1

    class Slow(Recorder):
        def finish(self, ticket: Ticket) -> None:
            assert Held.released == 0
            super().finish(ticket)

    async def main() -> None:
        await Jobs(loop, Slow()).run(0, "read", 1, keep=Held())

    loop.run_until_complete(main())
    assert Held.released == 1


def test_run_all_raises_what_a_job_raised() -> None:
    with pytest.raises(ValueError, match="bad job"):
        run_all(Recorder(), [Ticket(0, "good"), Ticket(1, "bad")])
