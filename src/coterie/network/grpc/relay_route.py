"""The sending side of a relayed session: a way to a peer through a member that both are connected to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from coterie.identity import PeerId
from coterie.network.compression import Encoding
from coterie.network.grpc.station import Station
from coterie.network.grpc.stream import RouteLost, Watch
from coterie.network.grpc.wire import FORWARD, Addressed
from coterie.network.sealing import Sealer

WINDOW = 4
"""Messages of at most 1 MiB that may be under way."""
DATA = bytes([2])
"""The kind of relayed content that a sealed message is."""


class RelayRoute:
    """A way to a peer through ``via``, one direction only."""

    def __init__(
        self,
        to: PeerId,
        via: PeerId,
        number: bytes,
        sealer: Sealer,
        station: Station,
        send: Callable[[PeerId, bytes], Awaitable[None]],
        fails: Callable[[PeerId, PeerId], None],
    ) -> None:
        self.to, self.via, self.number, self._sealer, self._station = to, via, number, sealer, station
        self._send, self._fails = send, fails
        self._room = asyncio.Event()
        self._room.set()
        self._unsettled: deque[tuple[int, Callable[[], None]]] = deque()
        """Frames that are not acknowledged: the number of their last message, and what to call if they never are."""
        self._watch = Watch(self._late)
        self.retired = False
        self._reason = ""

    def understands(self, encoding: Encoding) -> bool:
        return encoding.code == 0 or bool(self._sealer.encodings >> encoding.code & 1)

    async def send(self, message: bytes) -> None:
        await self._room.wait()
        if self.retired:
            raise RouteLost(self._reason, untouched=True)
        content = DATA + self.number + self._sealer.seal(message)
        if self._sealer.sent - self._sealer.received >= WINDOW:
            self._room.clear()
        self._watch.set(asyncio.get_running_loop().time() + self._station.limits.message_seconds)
        try:
            await self._send(self.via, Addressed(self.to, content).encode(FORWARD))
        except RouteLost as error:
            self.end(str(error))
            raise

    def settle(self, failed: Callable[[], None]) -> None:
        if self.retired:
            self._station.tell(failed)
        elif self._sealer.received < self._sealer.sent:
            self._unsettled.append((self._sealer.sent, failed))

    def acknowledged(self, content: bytes) -> None:
        """Raises MessageError."""
        self._sealer.acknowledged(content)
        while self._unsettled and self._unsettled[0][0] <= self._sealer.received:
            self._unsettled.popleft()
        self._room.set()
        if self._sealer.received == self._sealer.sent:
            self._watch.clear()
        else:
            self._watch.set(asyncio.get_running_loop().time() + self._station.limits.message_seconds)

    def end(self, reason: str) -> None:
        """Nothing goes this way any more."""
        self.retired, self._reason = True, self._reason or reason
        self._watch.close()
        self._room.set()
        unsettled, self._unsettled = self._unsettled, deque()
        for _, failed in unsettled:
            self._station.tell(failed)

    def _late(self) -> None:
        self._fails(self.to, self.via)
        self.end("the receiver does not acknowledge")
