"""All that goes between this peer and one other: the queue of frames for it, and the streams to and from it.

One stream is in use. When there are two, both ends come to the same choice: of two that the same end has dialled, the
newer one; otherwise that which the peer with the smaller id has dialled. The other one is retired: each end finishes
the frame it is sending there, says bye, and reads on until the other's bye. A stream of an earlier process of the peer
is cut. So is one that the peer no longer knows: it dials as if it had none, long after it was opened.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coterie.errors import MessageError, PeerUnreachable
from coterie.identity import PeerId, short_name
from coterie.network.codec import Frame
from coterie.network.compression import encoding
from coterie.network.grpc.inbox import Account, Inbox
from coterie.network.grpc.station import Station, log
from coterie.network.grpc.stream import Direct, Route, RouteLost
from coterie.network.grpc.wire import BYE, FIRST, NEXT
from coterie.network.sending import pieces

if TYPE_CHECKING:
    from coterie.network.grpc.dialling import Dialler
    from coterie.network.grpc.relay import Relay
    from coterie.network.grpc.relay_route import RelayRoute

_TRIES = 3
"""For one frame, each cut off in the middle."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0
"""Seconds between two attempts to dial: twice as long after each, and by chance up to half shorter."""
_LASTING = 5.0
"""Seconds: a stream that lived for less counts as a failed attempt."""
_WANTED = 60.0
"""Seconds after the last post, for which a lost stream is dialled again."""


@dataclass
class _Waiting:
    frame: Frame
    failed: Callable[[], None]
    nbytes: int
    tries: int = 0


class Link:
    """``dialler`` opens streams, ``relay`` finds another way; both are the transport's."""

    def __init__(self, peer: PeerId, station: Station, dialler: Dialler, relay: Relay, address: str | None) -> None:
        self.peer, self._station, self._dialler, self._relay = peer, station, dialler, relay
        self.address = address
        self.account = Account(station)
        self.incoming = 0
        """Streams that the peer has opened and that have not ended."""
        self.streams: list[Direct] = []
        self._relayed: RelayRoute | None = None
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._busy: Route | None = None
        self._wake, self._changed = asyncio.Event(), asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._searching: asyncio.Task[None] | None = None
        self._pause, self._not_before = _FIRST_PAUSE, float("-inf")
        self._posted, self._renewing = float("-inf"), False
        self._holding: asyncio.TimerHandle | None = None
        self._unreachable = self._closed = False

    # Sending

    def post(self, frame: Frame, failed: Callable[[], None]) -> None:
        """See ``Transport.post``."""
        loop, nbytes = asyncio.get_running_loop(), frame.nbytes
        self._posted = loop.time()
        route = self.route()
        full = bool(self._queued) and self._queued + nbytes > self._station.limits.queued_bytes
        if self._closed or full or (route is None and self._unreachable):
            if full:
                log.info("a frame to %s failed: the limit queued_bytes is reached", short_name(self.peer))
            loop.call_soon(failed)
        else:
            self._queue.append(_Waiting(frame, failed, nbytes))
            self._queued += nbytes
            self._wake.set()
            if self._writer is None:
                self._writer = self._station.spawn(self._write())
        if route is None:
            self._hold()
        if self.direct() is None:
            self.reach()

    def route(self) -> Route | None:
        """What a frame would go through now."""
        direct = self.direct()
        if direct is not None:
            return direct
        return self._relayed if self._relayed is not None and not self._relayed.retired else None

    def direct(self) -> Direct | None:
        """The stream in use."""
        return next((stream for stream in reversed(self.streams) if not stream.retired and not stream.ended), None)

    async def flushed(self) -> None:
        """Returns when nothing more can be sent over what is connected, and both ends have said bye."""
        while (self._queue or self._busy is not None) and self.route() is not None:
            self._changed.clear()
            await self._changed.wait()
        for stream in list(self.streams):
            self.retire(stream)
        while self.streams:
            self._changed.clear()
            await self._changed.wait()

    async def _write(self) -> None:
        while True:
            while not self._queue or self.route() is None:
                self._wake.clear()
                await self._wake.wait()
            route = self.route()
            if route is None:
                continue
            waiting = self._queue.popleft()
            self._queued -= waiting.nbytes
            self._busy = route
            try:
                await self._write_frame(route, waiting)
            finally:
                self._busy = None
                self._changed.set()
            if isinstance(route, Direct) and route.retired:
                await route.bye()

    async def _write_frame(self, route: Route, waiting: _Waiting) -> None:
        chosen = self._station.compression if waiting.frame.snapshots else encoding("none")
        if not route.understands(chosen):
            chosen = encoding("none")
        last = False
        waiting.tries += 1
        try:
            async with aclosing(
                pieces(waiting.frame, chosen, self._station.pool, first=FIRST + bytes([chosen.code]), then=NEXT)
            ) as parts:
                async for piece, last in parts:  # noqa: B007 - the last value counts
                    await route.send(piece)
        except RouteLost as error:
            self._lost(waiting, whole=last and not error.untouched)
            return
        except asyncio.CancelledError:
            self._station.tell(waiting.failed)
            raise
        except Exception as error:
            log.error("a frame to %s cannot be sent: %s", short_name(self.peer), error)
            self._station.tell(waiting.failed)
        else:
            route.settle(waiting.failed)

    def _lost(self, waiting: _Waiting, *, whole: bool) -> None:
        """It did not go out, or not whole: once more from the start, unless its end was already on the way."""
        if whole or waiting.tries >= _TRIES or self._closed or self._unreachable:
            self._station.tell(waiting.failed)
        else:
            self._queue.appendleft(waiting)
            self._queued += waiting.nbytes
            if self.route() is None:
                self._hold()
                self.reach()

    # Reaching

    def reach(self) -> None:
        """Try to get a stream, or a way through a relay."""
        if self._closed or self._station.closing:
            return
        if self.address is not None and self._dialling is None:
            self._dialling = self._station.spawn(self._dial())
        elif self.address is None:
            self._search()

    def reach_if_wanted(self) -> None:
        if self.wanted():
            self.reach()

    def renew(self) -> None:
        """Dial anew with the certificate we have now, before the stream with the old one is retired."""
        if any(stream.ours and not stream.ended for stream in self.streams):
            self._renewing = True
            self.reach()

    def set_address(self, address: str | None) -> None:
        if address != self.address:
            self.address, self._unreachable = address, False
            self._pause, self._not_before = _FIRST_PAUSE, float("-inf")
            if self._dialling is not None:
                self._dialling.cancel()
                self._dialling = None
            self.reach_if_wanted()

    def wanted(self) -> bool:
        """Whether a stream is missed that is not there."""
        if self._renewing:
            return True
        if self.direct() is not None:
            return False
        return self._sends() or self._dialler.keeps

    async def _dial(self) -> None:
        try:
            while self.wanted() and self.address is not None and not self._closed and not self._station.closing:
                await asyncio.sleep(max(0.0, self._not_before - asyncio.get_running_loop().time()))
                try:
                    stream = await self._dialler.dial(self.peer, self.address, alone=self.direct() is None)
                except PeerUnreachable as error:
                    level = log.warning if self._pause == _FIRST_PAUSE else log.debug
                    level("no stream to %s: %s", short_name(self.peer), error.what)
                    self._search()
                    self._back_off()
                else:
                    self._renewing = False
                    self._station.spawn(self._dialler.read(stream, self))
                    self.add(stream)
        finally:
            if self._dialling is asyncio.current_task():
                self._dialling = None

    def _back_off(self) -> None:
        """Do not dial for a while, and for longer next time."""
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - spreads the attempts of many
        self._not_before = asyncio.get_running_loop().time() + pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _search(self) -> None:
        """Look for a relay, as long as somebody sends; frames need not wait: they fail at once after a while."""
        if self._searching is None and self._sends() and not self._closed:
            self._searching = self._station.spawn(self._find_relay())

    def _sends(self) -> bool:
        return bool(self._queue) or asyncio.get_running_loop().time() - self._posted < _WANTED

    async def _find_relay(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._sends() and self.route() is None and not self._closed:
                try:
                    self._relayed = await self._relay.find(self.peer)
                    self._reached()
                except RouteLost as error:
                    log.debug("no relay to %s: %s", short_name(self.peer), error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._searching = None

    def _hold(self) -> None:
        """Nothing is connected: from now on frames wait for a while."""
        if self._holding is None and not self._unreachable:
            seconds = self._station.limits.hold_seconds
            self._holding = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._holding = None
        if self.route() is None:
            self._unreachable = True
            if self._queue:
                log.info("%s cannot be reached: %d frames failed", short_name(self.peer), len(self._queue))
            self._fail_all()
            loop = asyncio.get_running_loop()
            loop.call_later(_WANTED, self._forgive)

    def _forgive(self) -> None:
        """Nobody has posted for long: the next one waits again."""
        if not self.wanted():
            self._unreachable = False
        elif self._unreachable:
            asyncio.get_running_loop().call_later(_WANTED, self._forgive)

    def _reached(self) -> None:
        """There is a route again."""
        self._unreachable = False
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        self._wake.set()

    # Streams

    def add(self, new: Direct) -> None:
        """A stream has been opened, by either end."""
        if self._closed or self._station.closing:
            new.end("closed")
            return
        smaller = min(self.peer, self._station.identity.id)
        connect = self._station.limits.connect_seconds
        for old in list(self.streams):
            if old.session != new.session:
                old.end("the peer has started anew")
            elif old.retired or old.ours == new.ours:
                self.retire(old)
            elif new.alone and not new.ours and new.born - old.born > 2 * connect:
                old.end("the peer has lost this stream")
            elif (self._station.identity.id if new.ours else self.peer) == smaller:
                self.retire(old)
            else:
                self.retire(new)
        # The one in use is the last: whatever is retired goes before it.
        self.streams = [*(s for s in self.streams if not s.ended), new]
        log.info("stream with %s, %s", short_name(self.peer), "dialled" if new.ours else "accepted")
        self._reached()

    def retire(self, stream: Direct) -> None:
        """Send no new frame on it."""
        if stream.retired or stream.ended:
            return
        stream.retired = True
        cut = partial(stream.end, "retired")
        asyncio.get_running_loop().call_later(self._station.limits.drain_seconds, cut)
        if self._busy is not stream:
            self._station.spawn(stream.bye())

    async def read(self, stream: Direct) -> None:
        """Take what comes on it, until it ends."""
        inbox = Inbox(self.peer, self._station, self.account, stream.end)
        try:
            while True:
                message = await stream.read()
                if message is None:
                    return
                tag, content = message[:1], memoryview(message)[1:]
                if tag == FIRST:
                    await inbox.first(content)
                elif tag == NEXT:
                    await inbox.next(content)
                elif tag == BYE:
                    self.retire(stream)
                    await stream.finish()
                    if stream.said_bye and not stream.ours:
                        return
                else:
                    self._relay.take(self, message)
        except MessageError as error:
            self._station.drop(self.peer, "malformed message", str(error))
            stream.end("malformed message")
        finally:
            inbox.close()

    def lose(self, stream: Direct) -> None:
        """It has ended."""
        if stream in self.streams:
            self.streams.remove(stream)
            if asyncio.get_running_loop().time() - stream.born > _LASTING:
                self._pause = _FIRST_PAUSE
            elif not stream.retired:
                self._back_off()
            log.info("stream with %s ended: %s", short_name(self.peer), stream.ended or "both ends are done")
        self._relay.lost(self.peer)
        self._wake.set()
        self._changed.set()
        if self.direct() is None and not self._closed:
            if self._queue:
                self._hold()
            self.reach_if_wanted()

    def close(self, reason: str) -> None:
        """Cut everything, at once; what waits fails."""
        self._closed = True
        for stream in list(self.streams):
            stream.end(reason)
        if self._relayed is not None:
            self._relayed.end(reason)
        for task in (self._dialling, self._searching, self._writer):
            if task is not None:
                task.cancel()
        if self._holding is not None:
            self._holding.cancel()
        self._fail_all()

    def _fail_all(self) -> None:
        waiting, self._queue = self._queue, deque()
        for each in waiting:
            self._queued -= each.nbytes
            self._station.tell(each.failed)
