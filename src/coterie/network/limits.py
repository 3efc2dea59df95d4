"""What a peer may ask of this process, at most: each limit has a name, a default, and a reason to raise it.

What exceeds one is dropped and counted against the sender. Together they bound the memory that others can make this
process hold: ``receiving_bytes_in_all`` for frames on their way in, ``streams`` times about 8 MiB for what gRPC and the
relay buffer, and ``queued_bytes`` a peer for frames on their way out, which are mostly references to one snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coterie.errors import SpecError
from coterie.network.codec import CHUNK_BYTES, MAX_HEADER_BYTES, MAX_SNAPSHOTS
from coterie.network.sending import PIECE_BYTES

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one transport. Raise one only when the log names it for a peer that you trust."""

    header_bytes: int = MAX_HEADER_BYTES
    """Of a message without its snapshots. 1 MiB is the most that the wire allows: only ever lower it."""
    snapshots: int = 16
    """In one frame. Raise it (to 64 at most) for a protocol that sends more vectors in one message."""
    snapshot_elements: Mapping[str, int] = field(default_factory=dict)
    """Float32 elements of a snapshot, by the layout hashes of this federation. A snapshot of another layout is refused
    before a byte is allocated: name here each layout that the federation's models have."""
    queued_bytes: int = 256 * MIB
    """Waiting to go to one peer behind the frame that is being sent; one may always wait, however large. Raise it for
    large models on slow lines, if posts fail although the peer is up."""
    receiving_bytes: int = 1024 * MIB
    """Of snapshots that are just coming in from one peer. Raise it above four times the elements of a larger model."""
    receiving_bytes_in_all: int = 4096 * MIB
    """The same from all peers; a frame that would exceed it waits for its turn. Raise it where memory allows and many
    neighbours send at once."""
    frames_a_second: float = 500.0
    """From one peer, in the long run. Raise it for a protocol of many small messages."""
    frames_at_once: int = 2000
    """From one peer, after a quiet time. Raise it together with ``frames_a_second``."""
    streams_of_a_peer: int = 4
    """That one peer has opened and not yet ended. One is in use; more are there for moments, when one is replaced."""
    streams_a_minute_of_a_peer: float = 600.0
    """That one peer may open, in the long run; as many at once. Raise it for a line that breaks off all the time."""
    streams: int = 1024
    """That all peers together have opened. Raise it above the number of members that dial this one."""
    handshakes: int = 2048
    """Connections from outside at any time, those included whose TLS handshake goes on. Anybody can begin one: a
    firewall that limits connections an address protects better. Keep it above ``streams``."""
    connect_seconds: float = 10.0
    """For a handshake, and for the greetings at the start of a stream; a connection without a stream is closed after as
    long. Raise it for lines with a very long latency."""
    hold_seconds: float = 5.0
    """How long frames wait for a peer that cannot be reached, before they fail; later ones fail at once, until it is
    back. Raise it if peers restart often and take longer."""
    drain_seconds: float = 10.0
    """For what is under way on a stream that another one replaces; then it is cut."""
    stall_seconds: float = 15.0
    """For which a frame may stand still in the middle. Raise it for lines that break off for longer."""
    minimum_bytes_a_second: float = 16 * 1024.0
    """Of a frame in the middle. A sender that stays below is cut off. Lower it for very slow lines."""
    relayed_bytes_a_second: float = 32.0 * MIB
    """That this process passes on for one member to others. Raise it where a relay carries large models."""
    relayed_bytes_waiting: int = 16 * MIB
    """For one member, to be passed on. An honest one has at most 4 MiB on the way to each receiver: raise it if it
    sends to many."""
    relays_of_a_peer: int = 64
    """Others that one member may reach through this process at a time."""

    def __post_init__(self) -> None:
        low = [name for name in self.__dataclass_fields__ if name != "snapshot_elements" and getattr(self, name) <= 0]
        high = [
            f"{name} (at most {most})"
            for name, most in (("header_bytes", MAX_HEADER_BYTES), ("snapshots", MAX_SNAPSHOTS))
            if getattr(self, name) > most
        ]
        if low or high:
            raise SpecError(
                f"out of range: {', '.join(low + high)}",
                where="limits",
                remedy="Each is above 0 and what the wire allows.",
            )
        if self.receiving_bytes > self.receiving_bytes_in_all:
            raise SpecError(
                "receiving_bytes is above receiving_bytes_in_all",
                where="limits",
                remedy="Lower it, or raise the other.",
            )

    @property
    def message_seconds(self) -> float:
        """For one message of a stream to be taken by the other end."""
        return self.stall_seconds + PIECE_BYTES / self.minimum_bytes_a_second


class TokenBucket:
    """A rate: ``rate`` tokens a second come in, up to ``most``; each use takes some. It starts full."""

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, most, clock
        self._tokens, self._seen = most, clock()

    def take(self, amount: float = 1.0) -> bool:
        """Whether there is so much; if so it is taken."""
        self._fill()
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def borrow(self, amount: float) -> float:
        """Take ``amount`` in any case; the seconds to wait until it is there."""
        self._fill()
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._seen) * self._rate)
        self._seen = now


class Progress:
    """The deadline of a frame under way: time runs out unless bytes come at the minimum rate.

    Each byte buys ``1 / minimum_bytes_a_second``; more than the time of one chunk and ``stall_seconds`` cannot be saved
    up, so that a sender that was fast cannot then hold what it has made this process allocate.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._rate = limits.minimum_bytes_a_second
        self._most = limits.stall_seconds + CHUNK_BYTES / self._rate
        self.deadline = now + self._most

    def moved(self, nbytes: int, now: float) -> None:
        """So many bytes have come."""
        self.deadline = min(self.deadline + nbytes / self._rate, now + self._most)
