"""Announcements: where a peer says it can be dialled, signed by its identity for the purpose "address".

The bytes are the msgpack array [peer, endpoints, wire version, sequence, time, DHT key, signature] in the one encoding
that is accepted. The signature covers the genesis hash and the array without it, so an announcement is worth nothing in
another federation. Of two by one peer the one with the higher sequence number counts. Anybody may pass one on: members
tell each other, and its author puts it, sealed, into a distributed hash table (BEP 44).

BEP 44 signs its items with Ed25519 over bytes of its own form. The identity key signs no foreign bytes and is not given
to a library that stores it; items are signed with a key derived from the identity for this one purpose and federation.
Its public half is in the announcement: whoever has seen one announcement of a peer finds the later ones in the table.

What the signature does not say: that the peer can be reached there, or that nobody else is there. TLS tells.
"""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from typing import Annotated

import msgspec
from nacl.signing import SigningKey

from coterie.errors import CoterieError, MessageError, NetworkError
from coterie.identity import Identity, verify
from coterie.network.addresses import MOST_CHARACTERS, Address
from coterie.network.codec import WIRE_VERSION
from coterie.network.discovery.rendezvous import SEAL_BYTES

MOST_BYTES = 1000 - len("996:") - SEAL_BYTES
"""Of an announcement: sealed and bencoded it has at most 1000, the limit of BEP 44."""
MOST_ENDPOINTS = 8
VALID_SECONDS = 7 * 86400.0
"""How long an announcement counts; a node makes a new one every day."""
SKEW_SECONDS = 3600.0
"""Clocks may differ by so much."""
_PURPOSE = "address"

_Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Announcement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a peer can be dialled, by its own word. Those from ``make`` and ``decode`` are checked."""

    peer: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    endpoints: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=MOST_CHARACTERS)], ...],
        msgspec.Meta(min_length=1, max_length=MOST_ENDPOINTS),
    ]
    """The best first, each as ``str`` of an Address gives it."""
    wire_version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
    sequence: _Natural
    time: _Natural
    """Milliseconds since 1970, by the peer's clock: its word."""
    dht_key: _Key
    """The public key of the peer's items in the table."""
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    @classmethod
    def make(
        cls, identity: Identity, genesis: bytes, endpoints: Sequence[Address], sequence: int, time: float | None = None
    ) -> Announcement:
        """A signed one; ``time`` in seconds since 1970 is now where None. Raises NetworkError where it is too long."""
        milliseconds = int((clock.time() if time is None else time) * 1000)
        key = bytes(SigningKey(dht_seed(identity, genesis)).verify_key)
        texts = tuple(map(str, endpoints))
        unsigned = cls(identity.id, texts, WIRE_VERSION, sequence, milliseconds, key, bytes(64))
        signature = identity.sign(_PURPOSE, unsigned._signed(genesis))
        announcement = msgspec.structs.replace(unsigned, signature=signature)
        if not 1 <= len(texts) <= MOST_ENDPOINTS or len(announcement.encode()) > MOST_BYTES:
            raise NetworkError(
                f"{len(texts)} endpoints do not fit into an announcement",
                where=identity.id[:12],
                remedy=f"Announce from 1 to {MOST_ENDPOINTS} endpoints, with shorter names.",
            )
        return announcement

    @classmethod
    def decode(cls, data: bytes, genesis: bytes, now: float) -> Announcement:
        """The announcement of ``data``, checked: its form, its addresses, its author's signature, its age.

        ``now``: seconds since 1970. Raises MessageError.
        """
        if len(data) > MOST_BYTES:
            raise MessageError(f"an announcement of {len(data)} bytes is too long")
        try:
            announcement = _decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MessageError(f"not an announcement: {error}") from None
        fault = announcement._fault(data, genesis, now)
        if fault:
            raise MessageError(f"an announcement {fault}", where=announcement.peer[:12])
        return announcement

    def encode(self) -> bytes:
        return _encoder.encode(self)

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(map(Address.parse, self.endpoints))

    def fresh(self, now: float) -> bool:
        """Whether it still counts at ``now``, in seconds since 1970, and is not of the future."""
        age = now - self.time / 1000
        return -SKEW_SECONDS <= age <= VALID_SECONDS

    def _fault(self, data: bytes, genesis: bytes, now: float) -> str:
        if self.encode() != data:
            return "is not encoded canonically"
        try:
            texts = tuple(map(str, self.addresses))
            proper = texts == self.endpoints and len(set(texts)) == len(texts)
        except CoterieError:
            proper = False
        if not proper:
            return "names an address that is none, or one twice"
        if not verify(self.peer, _PURPOSE, self._signed(genesis), self.signature):
            return "is not signed by its peer for this federation"
        if not self.fresh(now):
            return "is too old, or of the future"
        return ""

    def _signed(self, genesis: bytes) -> bytes:
        array = (self.peer, self.endpoints, self.wire_version, self.sequence, self.time, self.dht_key)
        return genesis + _encoder.encode(array)


def dht_seed(identity: Identity, genesis: bytes) -> bytes:
    """The 32-byte Ed25519 seed that signs the peer's items in the table, of one federation."""
    return identity.derive("dht item", genesis)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Announcement)
