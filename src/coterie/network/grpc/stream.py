"""One open stream with another peer, whoever dialled, and what else frames may go through."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from coterie.errors import MessageError, printable
from coterie.identity import PeerId
from coterie.network.compression import Encoding, encodings
from coterie.network.grpc.station import Station
from coterie.network.grpc.wire import BYE, Hello


class RouteLost(Exception):
    """What was to be sent did not go out, or not whole. ``untouched``: certainly nothing of it did."""

    def __init__(self, reason: str, *, untouched: bool = False) -> None:
        super().__init__(reason)
        self.untouched = untouched


class Route(Protocol):
    """A way to a peer."""

    retired: bool
    """Whether no new frame is to go this way."""

    def understands(self, encoding: Encoding) -> bool:
        """Whether the other end can decode it."""
        ...

    async def send(self, message: bytes) -> None:
        """Returns when the message has been taken by the network. Raises RouteLost."""
        ...

    def settle(self, failed: Callable[[], None]) -> None:
        """All of a frame has been sent: ``failed`` is to be called if it turns out that it did not arrive."""
        ...


class Watch:
    """Calls ``late`` when a deadline passes that was not moved on in time. Costs one timer, however often it moves."""

    def __init__(self, late: Callable[[], None]) -> None:
        self._late, self._loop = late, asyncio.get_running_loop()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._arm(deadline)

    def clear(self) -> None:
        self._deadline = None

    def close(self) -> None:
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._arm(self._deadline)
        else:
            self._deadline = None
            self._late()


class Ends(Protocol):
    """gRPC's side of a stream: the client's call, or the server's context."""

    async def read(self) -> bytes | None:
        """The next message; None after the last."""
        ...

    async def write(self, message: bytes) -> None: ...

    async def done_writing(self) -> None:
        """Nothing more will be written."""
        ...

    def cut(self, reason: str) -> None:
        """End it at once, in both directions."""
        ...


class Direct:
    """A stream. ``ours``: whether this process dialled."""

    def __init__(self, peer: PeerId, ours: bool, hello: Hello, ends: Ends, station: Station) -> None:
        self.peer, self.ours, self.session, self.alone = peer, ours, hello.session, hello.alone
        self.born = asyncio.get_running_loop().time()
        self.certificates: frozenset[bytes] = frozenset()
        """Fingerprints of those that the other end has shown, or was allowed to show."""
        self._names = hello.encodings
        self._ends, self._station = ends, station
        self._lock = asyncio.Lock()
        self._watch = Watch(lambda: self.end("the other end does not read"))
        self.ended = ""
        """Why it ended."""
        self.retired = self.said_bye = self.heard_bye = False

    def understands(self, encoding: Encoding) -> bool:
        return encoding.code == 0 or (encoding.name in self._names and encoding in encodings())

    async def send(self, message: bytes) -> None:
        async with self._lock:
            if self.ended or self.said_bye:
                raise RouteLost(self.ended or "retired", untouched=True)
            self._watch.set(asyncio.get_running_loop().time() + self._station.limits.message_seconds)
            try:
                await guarded(self._ends.write(message))
            except BrokenStream as error:
                self.end(str(error))
                raise RouteLost(self.ended) from None
            finally:
                self._watch.clear()
            self._station.bytes_sent += len(message)

    def settle(self, failed: Callable[[], None]) -> None:
        """Whether it has arrived, only an answer will tell."""

    async def read(self) -> bytes | None:
        """The next message; None when there will be none."""
        if self.ended:
            return None
        try:
            message: bytes | None = await guarded(self._ends.read())
        except BrokenStream as error:
            self.end(str(error))
            return None
        if message is not None:
            self._station.bytes_received += len(message)
        return message if not self.ended else None

    async def bye(self) -> None:
        """Say that no frame will come from here any more."""
        if self.said_bye or self.ended:
            return
        try:
            await self.send(BYE)
            self.said_bye = True
            if self.heard_bye:
                await guarded(self._ends.done_writing())
        except (RouteLost, BrokenStream):
            pass

    async def finish(self) -> None:
        """The other end has said bye; when we have too, nothing more is written."""
        self.heard_bye = True
        if self.said_bye:
            try:
                await guarded(self._ends.done_writing())
            except BrokenStream as error:
                self.end(str(error))

    def end(self, reason: str) -> None:
        """Cut it, at once. What is being sent fails; what is being read is dropped."""
        if not self.ended:
            self.ended = reason
            self._watch.close()
            self._ends.cut(reason)


class BrokenStream(Exception):
    """The network, the other end or gRPC has ended the stream."""


async def guarded(operation: Awaitable[Any]) -> Any:
    """The outcome of one of gRPC's operations; whatever it raises becomes BrokenStream.

    gRPC raises CancelledError out of an operation when its call is cancelled; that is no cancellation of this task.
    """
    try:
        return await operation
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokenStream("cancelled") from None
    except MessageError:
        raise
    except Exception as error:
        raise BrokenStream(reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """What an error of gRPC says, in one line. The details are the other end's word: it goes to logs and terminals."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        return f"{getattr(code(), 'name', code())}: {printable(details() or '')}"[:300]
    return f"{type(error).__name__}: {printable(str(error))}"[:300]
