"""Virtual time: instants, order, deadlock, and what has no place in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from coterie.errors import Deadlock
from coterie.runtime.simulation.clock import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_sleeping_takes_no_time_and_the_clock_says_it_did(loop: VirtualLoop) -> None:
    async def sleeper() -> list[float]:
        seen = [loop.time()]
        for seconds in (0.5, 3600.0, 0.0, 86400.0):
            await asyncio.sleep(seconds)
            seen.append(loop.time())
        return seen

    assert loop.run_until_complete(sleeper()) == pytest.approx([0.0, 0.5, 3600.5, 3600.5, 90000.5])


def test_timers_fire_in_order_of_their_time(loop: VirtualLoop) -> None:
    fired: list[float] = []

    async def main() -> None:
        for delay in (3.0, 1.0, 2.0, 1.5):
            loop.call_later(delay, fired.append, delay)
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert fired == [1.0, 1.5, 2.0, 3.0]


def test_a_timeout_cuts_a_wait(loop: VirtualLoop) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.sleep(1000)
        return loop.time()

    assert loop.run_until_complete(main()) == pytest.approx(7)


def test_waiting_for_nothing_is_a_deadlock(loop: VirtualLoop) -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        await loop.create_future()

    with pytest.raises(Deadlock):
        loop.run_until_complete(main())
    assert loop.time() == pytest.approx(5)


def test_threads_have_no_virtual_time(loop: VirtualLoop) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1
    with pytest.raises(RuntimeError, match="threads"):
        loop.run_in_executor(None, print)
