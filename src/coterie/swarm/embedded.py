"""A session whose work is done by coroutines on the process's background loop."""

from __future__ import annotations

from typing import Protocol

import torch

from coterie.layout import Layout
from coterie.swarm.background import BackgroundLoop, shared
from coterie.swarm.session import CheckIn, Merged, Terms
from coterie.training.frameworks import Figures


class AsyncSession(Protocol):
    """``Session``, as coroutines. Cancelling one is Ctrl-C in the script: it leaves a state in which it can be called
    again. It must not hold the loop for long: other callbacks of the process share it."""

    async def begin(self, terms: Terms, layout: Layout, vector: torch.Tensor) -> Merged: ...

    async def sync(self, checkin: CheckIn) -> Merged: ...

    async def end(self, checkin: CheckIn) -> Merged: ...

    async def close(self, figures: Figures | None) -> None: ...


class EmbeddedSession:
    """A ``Session`` for the script's thread; ``inner`` lives on ``loop``, by default the process's."""

    def __init__(self, inner: AsyncSession, loop: BackgroundLoop | None = None) -> None:
        self._inner = inner
        self._loop = loop or shared()

    def begin(self, terms: Terms, layout: Layout, vector: torch.Tensor) -> Merged:
        return self._loop.run(self._inner.begin(terms, layout, vector))

    def sync(self, checkin: CheckIn) -> Merged:
        return self._loop.run(self._inner.sync(checkin))

    def end(self, checkin: CheckIn) -> Merged:
        return self._loop.run(self._inner.end(checkin))

    def close(self, figures: Figures | None) -> None:
        self._loop.run(self._inner.close(figures))
