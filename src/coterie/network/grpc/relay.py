"""Reaching a peer through a member that both are connected to, where neither can dial the other.

Whoever has frames for such a peer asks the members it is connected to who could pass them on, and opens a sealed
session through the first that says yes (see ``sealing``). At most ``WINDOW`` messages are under way; the receiver
acknowledges each once it has dealt with it, so that nothing piles up at the relay.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from coterie.errors import MessageError
from coterie.identity import PeerId
from coterie.network.compression import encodings
from coterie.network.grpc.forwarding import Forwarding
from coterie.network.grpc.inbox import Inbox
from coterie.network.grpc.link import Link
from coterie.network.grpc.relay_route import DATA, WINDOW, RelayRoute
from coterie.network.grpc.station import Station
from coterie.network.grpc.stream import RouteLost
from coterie.network.grpc.wire import ASK_ROUTE, FIRST, FORWARD, FORWARDED, NEXT, ROUTE, Addressed
from coterie.network.sealing import Opening, Sealer, Unsealer, accept

_ASKED = 8
"""Members that are asked for a route at a time."""
_ANSWERS = 32
"""That may wait for one peer to read them."""
_OPEN, _ACCEPT, _, _ACK, _UNKNOWN = (bytes([kind]) for kind in range(5))
"""Beside ``DATA``: what is sealed or signed for the other end; the last one says that it does not know a session, and
anybody could."""
_SESSION = slice(1, 9)
"""Of a content: the first bytes of the key that opened the session."""


@dataclass
class _Asked:
    answer: asyncio.Future[PeerId]
    open: set[PeerId] = field(default_factory=set)
    """Those that have not answered."""


@dataclass
class _Opened:
    via: PeerId
    opening: Opening
    answer: asyncio.Future[Sealer]


class Relay:
    """All three parts: using a relay, being one, and receiving through one."""

    def __init__(
        self, station: Station, link_to: Callable[[PeerId], Link | None], links: Callable[[], Iterable[Link]]
    ) -> None:
        self._station, self._link_to, self._links = station, link_to, links
        self.forwarding = Forwarding(station, link_to, self._refuse)
        self._asked: dict[PeerId, _Asked] = {}
        self._opened: dict[PeerId, _Opened] = {}
        self._routes: dict[PeerId, RelayRoute] = {}
        self._failed: dict[PeerId, set[PeerId]] = {}
        """By receiver, members that said they were connected to it, and passed nothing on: others are asked first."""
        self._sessions: dict[tuple[PeerId, PeerId], list[_Incoming]] = {}
        """By sender and relay: the one in use, and one that has been opened since."""

    async def find(self, to: PeerId) -> RelayRoute:
        """A way to ``to``. Raises RouteLost where nobody that is connected has one."""
        via = await self._ask(to)
        members = self._station.members
        opening = Opening(self._station.identity, members.genesis, to, _encodings())
        self._opened[to] = opened = _Opened(via, opening, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(self._station.limits.connect_seconds):
                await self._send(via, Addressed(to, _OPEN + opening.content).encode(FORWARD))
                sealer = await opened.answer
        except TimeoutError:
            self._disappoints(to, via)
            raise RouteLost("the relayed session was not accepted in time") from None
        finally:
            del self._opened[to]
        route = RelayRoute(to, via, opening.content[_SESSION], sealer, self._station, self._send, self._disappoints)
        old = self._routes.pop(to, None)
        if old is not None:
            old.end("replaced")
        self._routes[to] = route
        return route

    def take(self, link: Link, message: bytes) -> None:
        """A message of a stream that is no frame. Raises MessageError if it is nothing at all."""
        tag, addressed = message[:1], Addressed.read(message)
        if tag == ASK_ROUTE:
            if self._may_ask(link):
                there = addressed.peer != link.peer and self.forwarding.connected(addressed.peer)
                self._answer(link, Addressed(addressed.peer, bytes([there])).encode(ROUTE))
        elif tag == ROUTE:
            self._on_route(link, addressed.peer, addressed.content == b"\x01")
        elif tag == FORWARD:
            self.forwarding.take(link, addressed)
        elif tag == FORWARDED:
            self._on_forwarded(link, addressed.peer, addressed.content)
        else:
            raise MessageError(f"a message of the unknown kind {message[0]}")

    def lost(self, peer: PeerId) -> None:
        """A stream with ``peer`` has ended: if it was the last, nothing goes through it any more."""
        link = self._link_to(peer)
        if link is not None and link.direct() is not None:
            return
        for to in [to for to, route in self._routes.items() if route.via == peer]:
            self._routes.pop(to).end("the relay is gone")
        for key in [key for key in self._sessions if key[1] == peer]:
            self._close(key)
        for to, asked in list(self._asked.items()):
            self._no_answer(to, asked, peer)
        for opened in self._opened.values():
            if opened.via == peer and not opened.answer.done():
                opened.answer.set_exception(RouteLost("the relay is gone"))

    def forget(self, peer: PeerId, reason: str) -> None:
        """It is no member any more."""
        self.lost(peer)
        self._failed.pop(peer, None)
        self.forwarding.forget(peer)
        route = self._routes.pop(peer, None)
        if route is not None:
            route.end(reason)
        for key in [key for key in self._sessions if key[0] == peer]:
            self._close(key)

    # Asking for a route

    async def _ask(self, to: PeerId) -> PeerId:
        """A member that says it is connected to ``to``."""
        candidates = [link.peer for link in self._links() if link.peer != to and link.direct() is not None]
        if not candidates:
            raise RouteLost("no member is connected")
        others = [peer for peer in candidates if peer not in self._failed.get(to, ())]
        if not others:
            del self._failed[to]  # all have failed: perhaps the receiver had
        candidates = others or candidates
        random.shuffle(candidates)
        asked = _Asked(asyncio.get_running_loop().create_future(), set(candidates[:_ASKED]))
        self._asked[to] = asked
        try:
            async with asyncio.timeout(self._station.limits.connect_seconds):
                for peer in candidates[:_ASKED]:
                    self._station.spawn(self._try_send(peer, Addressed(to, b"").encode(ASK_ROUTE)))
                return await asked.answer
        except TimeoutError:
            raise RouteLost("no member has answered in time") from None
        finally:
            del self._asked[to]

    def _on_route(self, link: Link, to: PeerId, there: bool) -> None:
        asked, route = self._asked.get(to), self._routes.get(to)
        if not there and route is not None and route.via == link.peer:
            self._routes.pop(to).end("the relay has lost the receiver")
        opened = self._opened.get(to)
        if not there and opened is not None and opened.via == link.peer and not opened.answer.done():
            opened.answer.set_exception(RouteLost("the relay has lost the receiver"))
        if asked is None or link.peer not in asked.open:
            return
        if there and not asked.answer.done():
            asked.answer.set_result(link.peer)
        elif not there:
            self._no_answer(to, asked, link.peer)

    def _no_answer(self, to: PeerId, asked: _Asked, peer: PeerId) -> None:
        asked.open.discard(peer)
        if not asked.open and not asked.answer.done():
            asked.answer.set_exception(RouteLost("no member is connected to it"))

    def _disappoints(self, to: PeerId, via: PeerId) -> None:
        """A relay says yes to anything, and is the first to do so: it must not be asked for ever."""
        self._failed.setdefault(to, set()).add(via)

    # Receiving through a relay

    def _on_forwarded(self, link: Link, sender: PeerId, content: bytes) -> None:
        kind, rest = content[:1], content[1:]
        if sender not in self._station.members or sender == self._station.identity.id:
            self._station.drop(link.peer, "wrong relayed message", "its sender is not a member")
            return
        try:
            if kind == _OPEN and self._may_ask(link):
                self._on_open(link, sender, rest)
            elif kind == _ACCEPT:
                opened = self._opened.get(sender)
                if opened is not None and opened.via == link.peer and not opened.answer.done():
                    opened.answer.set_result(opened.opening.accepted(rest))
            elif kind == DATA:
                sessions = self._sessions.get((sender, link.peer), ())
                session = next((s for s in sessions if s.number == rest[:8]), None)
                if session is not None:
                    session.put(rest[8:])
                elif self._may_ask(link):
                    self._answer(link, Addressed(sender, _UNKNOWN + rest[:8]).encode(FORWARD))
            elif kind in (_ACK, _UNKNOWN):
                route = self._routes.get(sender)
                if route is None or route.via != link.peer or route.number != rest[:8]:
                    return
                if kind == _ACK:
                    route.acknowledged(rest[8:])
                else:
                    self._routes.pop(sender).end("the receiver has started anew")
        except MessageError as error:
            self._station.drop(link.peer, "wrong relayed message", str(error))

    def _on_open(self, link: Link, sender: PeerId, content: bytes) -> None:
        source = self._link_to(sender)
        if source is None:
            return
        genesis = self._station.members.genesis
        unsealer, answer = accept(self._station.identity, genesis, sender, content, _encodings())
        session = _Incoming(content[_SESSION], unsealer, source, link, self)
        sessions = self._sessions.setdefault((sender, link.peer), [])
        if len(sessions) > 1:
            sessions.pop().close()
        sessions.append(session)
        self._answer(link, Addressed(sender, _ACCEPT + answer).encode(FORWARD))

    def in_use(self, session: _Incoming) -> None:
        """The sender has shown that it has the keys: what it opened before is over."""
        sessions = self._sessions.get((session.sender, session.via.peer), [])
        for other in [other for other in sessions if other is not session]:
            other.close()
            sessions.remove(other)

    def acknowledge(self, session: _Incoming, ack: bytes) -> None:
        self._answer(session.via, Addressed(session.sender, _ACK + session.number + ack).encode(FORWARD))

    def wrong(self, session: _Incoming, error: MessageError) -> None:
        """What came is not what the sender has sent: the relay's doing."""
        self._station.drop(session.via.peer, "wrong relayed message", str(error))

    def inbox(self, link: Link, cut: Callable[[str], None]) -> Inbox:
        return Inbox(link.peer, self._station, link.account, cut)

    def spawn(self, session: _Incoming) -> asyncio.Task[None]:
        return self._station.spawn(session.run())

    def _close(self, key: tuple[PeerId, PeerId]) -> None:
        for session in self._sessions.pop(key, ()):
            session.close()

    # Sending

    async def _send(self, via: PeerId, message: bytes) -> None:
        """Over the stream with ``via``. Raises RouteLost."""
        link = self._link_to(via)
        stream = link.direct() if link is not None else None
        if stream is None:
            raise RouteLost("the relay is gone", untouched=True)
        await stream.send(message)

    async def _try_send(self, via: PeerId, message: bytes) -> None:
        try:
            await self._send(via, message)
        except RouteLost:
            self.lost(via)

    def _answer(self, link: Link, message: bytes) -> None:
        """Send without waiting: who reads must never wait for who writes, or two could wait for each other."""
        if link.account.answering >= _ANSWERS:
            self._station.drop(link.peer, "too many questions", "answers wait to be read")
            return
        link.account.answering += 1
        task = self._station.spawn(self._try_send(link.peer, message))
        task.add_done_callback(lambda _: self._answered(link))

    def _answered(self, link: Link) -> None:
        link.account.answering -= 1

    def _refuse(self, link: Link, receiver: PeerId) -> None:
        self._answer(link, Addressed(receiver, b"\x00").encode(ROUTE))

    def _may_ask(self, link: Link) -> bool:
        if link.account.asked.take():
            return True
        self._station.drop(link.peer, "too many questions")
        return False


def _encodings() -> int:
    """What this process can decode, as bits."""
    return sum(1 << encoding.code for encoding in encodings())


class _Incoming:
    """A session that somebody has opened to this peer. What comes on it is dealt with in order."""

    def __init__(self, number: bytes, unsealer: Unsealer, source: Link, via: Link, relay: Relay) -> None:
        self.number, self.sender, self.via = number, source.peer, via
        self._unsealer, self._relay = unsealer, relay
        self._inbox = relay.inbox(source, lambda _: self.close())
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, content: bytes) -> None:
        """Raises MessageError where more has come than may be under way."""
        if len(self._waiting) > WINDOW:
            raise MessageError("more relayed messages than may be under way")
        if self._closed:
            return
        self._waiting.append(content)
        if self._task is None or self._task.done():
            self._task = self._relay.spawn(self)

    async def run(self) -> None:
        while self._waiting and not self._closed:
            try:
                missing, message = self._unsealer.unseal(self._waiting.popleft())
            except MessageError as error:
                self._relay.wrong(self, error)
                continue
            if self._unsealer.last - missing == 1:
                self._relay.in_use(self)
            if missing:
                self._inbox.missing()
            if message[:1] == FIRST:
                await self._inbox.first(memoryview(message)[1:])
            elif message[:1] == NEXT:
                await self._inbox.next(memoryview(message)[1:])
            self._relay.acknowledge(self, self._unsealer.acknowledge())

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._inbox.close()
