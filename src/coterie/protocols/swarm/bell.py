"""Waiting for something to change."""

from __future__ import annotations

import asyncio


class Bell:
    """Whoever waits goes on at the next ``ring``, and looks for itself what has changed."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self.rung = 0
        """How often it has rung."""

    def ring(self) -> None:
        self.rung += 1
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, seconds: float | None = None) -> None:
        """Until it rings, or so many seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
