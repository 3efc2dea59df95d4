"""Serving as relay: passing sealed messages on from one member to another, within limits.

It sees who sends to whom, when and how much. Each pair has a lane of its own, so that a slow receiver holds up nobody
else; what one sender has waiting in all its lanes is bounded, and goes on at a bounded rate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from coterie.identity import PeerId
from coterie.network.grpc.link import Link
from coterie.network.grpc.station import Station
from coterie.network.grpc.stream import RouteLost
from coterie.network.grpc.wire import FORWARDED, Addressed
from coterie.network.limits import TokenBucket


@dataclass
class _Sender:
    rate: TokenBucket
    waiting: int = 0
    lanes: dict[PeerId, deque[bytes]] = field(default_factory=dict)
    """Only those with something in them."""


class Forwarding:
    """``link_to``: the link of a member; ``refuse(sender, receiver)`` tells the sender that there is no way."""

    def __init__(
        self, station: Station, link_to: Callable[[PeerId], Link | None], refuse: Callable[[Link, PeerId], None]
    ) -> None:
        self._station, self._link_to, self._refuse = station, link_to, refuse
        self._senders: dict[PeerId, _Sender] = {}

    def connected(self, receiver: PeerId) -> bool:
        """Whether a message for it could be passed on now."""
        link = self._link_to(receiver)
        return link is not None and link.direct() is not None

    def take(self, link: Link, message: Addressed) -> None:
        """Pass a message on."""
        limits = self._station.limits
        rate = limits.relayed_bytes_a_second
        sender = self._senders.setdefault(link.peer, _Sender(TokenBucket(rate, rate)))
        if message.peer == link.peer or not self.connected(message.peer):
            self._refuse(link, message.peer)
        elif sender.waiting + len(message.content) > limits.relayed_bytes_waiting:
            self._station.drop(link.peer, "too much to relay", "the limit is relayed_bytes_waiting")
        elif message.peer not in sender.lanes and len(sender.lanes) >= limits.relays_of_a_peer:
            self._station.drop(link.peer, "too much to relay", "the limit is relays_of_a_peer")
        else:
            sender.waiting += len(message.content)
            lane = sender.lanes.get(message.peer)
            if lane is not None:
                lane.append(message.content)
            else:
                sender.lanes[message.peer] = lane = deque((message.content,))
                self._station.spawn(self._run(link, sender, message.peer, lane))

    def forget(self, peer: PeerId) -> None:
        """It is no member any more: what it has waiting here goes nowhere."""
        sender = self._senders.pop(peer, None)
        for lane in sender.lanes.values() if sender is not None else ():
            lane.clear()

    async def _run(self, link: Link, sender: _Sender, receiver: PeerId, lane: deque[bytes]) -> None:
        try:
            while lane:
                content = lane[0]
                await asyncio.sleep(sender.rate.borrow(len(content)))
                if not lane:  # the sender has been expelled meanwhile
                    return
                if not await self._pass_on(receiver, Addressed(link.peer, content).encode(FORWARDED)):
                    self._refuse(link, receiver)
                    return
                sender.waiting -= len(content)
                if lane:
                    lane.popleft()
        finally:
            sender.waiting -= sum(map(len, lane))
            sender.lanes.pop(receiver, None)

    async def _pass_on(self, receiver: PeerId, message: bytes) -> bool:
        """Whether it could be sent."""
        link = self._link_to(receiver)
        stream = link.direct() if link is not None else None
        if stream is None:
            return False
        try:
            await stream.send(message)
        except RouteLost:
            return False
        return True
