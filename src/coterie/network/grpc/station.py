"""What all parts of one transport share: who this peer is, who the others are, its limits and its counters."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from coterie.identity import Identity, PeerId, TransportKey, short_name
from coterie.network.codec import Codec, Frame
from coterie.network.compression import Encoding, encoding
from coterie.network.limits import Limits
from coterie.network.members import Members
from coterie.network.spool import Spool
from coterie.network.transport import Receiver

log = logging.getLogger("coterie.network")
_THREADS = 2
"""For hashing and compressing; both let other threads run."""
_MOST_REASONS = 4096


class Station:
    """Belongs to one event loop, but for ``members`` and ``transport_key``, which gRPC's threads read."""

    def __init__(
        self,
        identity: Identity,
        transport_key: TransportKey,
        members: Members,
        receive: Receiver,
        limits: Limits,
        dropped: Callable[[PeerId, str], None] | None,
        compression: Encoding | None,
        spools: Mapping[str, Spool],
    ) -> None:
        self.identity, self.transport_key, self.members = identity, transport_key, members
        self.limits, self.codec, self.spools = limits, Codec(), spools
        self.compression = compression or encoding("none")
        self.session = secrets.token_bytes(16)
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="coterie-network")
        self.budget = Budget(limits.receiving_bytes_in_all)
        self.bytes_sent = self.bytes_received = 0
        self.closing = False
        self._receive, self._dropped = receive, dropped
        self._drops: Counter[tuple[PeerId, str]] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    def deliver(self, sender: PeerId, frame: Frame) -> None:
        """Hand a frame to the protocols. What they raise is logged, and goes no further."""
        if self.closing or sender not in self.members:
            return
        try:
            self._receive(sender, frame)
        except Exception:
            log.exception("a frame of %s raised an error where it was received", short_name(sender))

    def tell(self, failed: Callable[[], None]) -> None:
        """Say that a frame has failed. What that raises is logged, and goes no further."""
        try:
            failed()
        except Exception:
            log.exception("the callback for failed frames raised an error")

    def drop(self, sender: PeerId, kind: str, detail: str = "") -> None:
        """Count something against ``sender``; ``kind`` is one of few. Logged when the count is a power of two."""
        key = sender, kind
        if key not in self._drops and len(self._drops) >= _MOST_REASONS:
            self._drops.clear()
        self._drops[key] += 1
        count = self._drops[key]
        reason = f"{kind}: {detail}" if detail else kind
        if count & (count - 1) == 0:
            log.warning("dropped from %s (%s): %s (%d so far)", short_name(sender), sender[:12], reason, count)
        if self._dropped is not None:
            try:
                self._dropped(sender, reason)
            except Exception:
                log.exception("the callback for dropped frames raised an error")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something until it ends, or the transport is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def clean_up(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something that ends by itself, and is waited for when the transport is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a part of the transport has failed", exc_info=task.exception())


class Budget:
    """Bytes that may be in use at a time; who wants more than there is waits for its turn."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, nbytes: int) -> None:
        """Returns once so many are there; at most the total may be asked for."""
        if not self._waiting and nbytes <= self._free:
            self._free -= nbytes
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((nbytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += nbytes
            self._serve()
            raise

    def give(self, nbytes: int) -> None:
        self._free += nbytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            nbytes, turn = self._waiting[0]
            if not turn.cancelled():
                if nbytes > self._free:
                    return
                self._free -= nbytes
                turn.set_result(None)
            self._waiting.popleft()
