"""Several conversations of one protocol at once over one peer: each has a lane of its own, and sees an ordinary Peer.

A lane's frames travel inside messages of the peer below, with the lane's name. What comes for a lane that is not open
here is refused, as a message that was not expected is.

Threat model: any member can send on any lane. A lane separates what belongs together; it keeps nobody out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec

from coterie.errors import MessageError
from coterie.layout import Snapshot
from coterie.network import Codec, Envelope, Frame, Message, message
from coterie.network.codec import MAX_HEADER_BYTES, MAX_SNAPSHOTS
from coterie.protocols.peer import Peer, PeerId, PeerMemory, Store


@message
class LaneFrame(Message, frozen=True):
    """A frame of a lane."""

    lane: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    header: Annotated[bytes, msgspec.Meta(max_length=MAX_HEADER_BYTES)]
    snapshots: Annotated[tuple[Snapshot, ...], msgspec.Meta(max_length=MAX_SNAPSHOTS)]


class Lanes:
    """The lanes of one peer. Make one of them for a peer, before anything is open."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._open: dict[str, Peer] = {}
        peer.handle(LaneFrame, self._on_frame)

    def open(self, lane: str, *, returned: bool | None = None) -> Peer:
        """A Peer for one lane, with a store of its own within the peer's. Its learner and ledger are the peer's.

        ``returned``: that of the lane, where it is not the peer's.
        """
        below = self._peer
        self._open[lane] = replace(
            below,
            store=_Store(below.store, lane),
            transport=_Transport(below, lane),
            codec=Codec(),
            memory=PeerMemory(),
            returned=below.returned if returned is None else returned,
            waiting=None,
            _earlier={},
            _handlers={},
            _questions={},
            _overdue={},
            _waiting={},
            _tasks=[],
        )
        return self._open[lane]

    def close(self, lane: str) -> None:
        """Stop a lane: what waits there is cancelled."""
        if (peer := self._open.pop(lane, None)) is not None:
            peer.close()

    def _on_frame(self, sender: PeerId, frame: LaneFrame) -> None:
        peer = self._open.get(frame.lane)
        if peer is None:
            raise MessageError("a message for what is not under way here", where=sender)
        peer.receive(sender, Frame(frame.header, frame.snapshots))


@dataclass(frozen=True)
class _Transport:
    """One lane's end of the network."""

    below: Peer
    lane: str

    def post(self, to: PeerId, frame: Frame, failed: Callable[[], None]) -> None:
        inner = LaneFrame(self.lane, frame.header, frame.snapshots)
        self.below.transport.post(to, self.below.codec.encode(Envelope("send", 0, inner)), failed)

    @property
    def bytes_sent(self) -> int:
        """Of the whole peer."""
        return self.below.transport.bytes_sent


class _Store:
    """A lane's part of a peer's store."""

    def __init__(self, below: Store, lane: str) -> None:
        self._below, self._suffix = below, "-" + hashlib.sha256(lane.encode()).hexdigest()[:16]

    def get(self, key: str) -> Any:
        return self._below.get(key + self._suffix)

    def put(self, key: str, value: Any) -> None:
        self._below.put(key + self._suffix, value)

    def put_durably(self, key: str, value: Any) -> None:
        self._below.put_durably(key + self._suffix, value)
