"""What travels on a stream between two peers: one byte that says what a message is, then its content.

    hello      msgpack; the listening end's first message. The dialling end's is in the call's metadata, so that it is
               there when the call is: a refusal can be sent at once
    first      encoding, u8 | a frame's bytes, from the start          (see ``codec`` and ``reading``)
    next       the bytes that follow
    bye        nothing: no frame will come on this stream any more
    ask_route  peer id, 32 bytes: are you connected to it?
    route      peer id | 0 or 1
    forward    receiver's id | sealed content: pass it on               (see ``sealing``)
    forwarded  sender's id | sealed content

A frame's messages follow one another; others may come between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from coterie.errors import MessageError
from coterie.identity import PeerId
from coterie.network.codec import WIRE_VERSION
from coterie.network.sending import PIECE_BYTES

METHOD = "/coterie/stream"
HELLO_KEY = "coterie-hello-bin"
"""Of the metadata."""
HELLO, FIRST, NEXT, BYE, ASK_ROUTE, ROUTE, FORWARD, FORWARDED = (bytes([tag]) for tag in range(8))
LOWEST_VERSION = WIRE_VERSION
"""The oldest wire version that this process still speaks."""
MESSAGE_BYTES = PIECE_BYTES + 256
"""The longest message: a piece, sealed, and the id of who it is for."""
PEER_BYTES = 32
_Version = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """How a stream begins. Later versions may add fields at the end."""

    magic: Literal["coterie"]
    lowest: _Version
    highest: _Version
    genesis: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    session: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    """Drawn anew whenever the process starts: streams of an earlier one are dead."""
    alone: bool
    """Whether the sender has no other stream to this peer."""
    encodings: Annotated[list[Annotated[str, msgspec.Meta(max_length=16)]], msgspec.Meta(max_length=16)]
    """What it can decode."""

    @classmethod
    def make(cls, genesis: bytes, session: bytes, alone: bool, encodings: list[str]) -> Hello:
        return cls("coterie", LOWEST_VERSION, WIRE_VERSION, genesis, session, alone, encodings)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


def read_hello(content: bytes, genesis: bytes) -> Hello:
    """The other's hello. Raises MessageError, whose text tells both operators why the two do not meet."""
    try:
        hello = msgspec.msgpack.decode(content, type=Hello)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("the stream does not begin with a hello") from None
    if hello.lowest > WIRE_VERSION or hello.highest < LOWEST_VERSION:
        raise MessageError(
            f"wire versions {hello.lowest} to {hello.highest} do not meet {LOWEST_VERSION} to {WIRE_VERSION}",
            remedy="Upgrade the older peer.",
        )
    if hello.genesis != genesis:
        raise MessageError(
            f"the federation {hello.genesis.hex()[:12]} is not {genesis.hex()[:12]}",
            remedy="Join the federation that the other peer is in.",
        )
    return hello


@dataclass(frozen=True)
class Addressed:
    """The content of the messages that name a peer."""

    peer: PeerId
    content: bytes

    @classmethod
    def read(cls, message: bytes) -> Addressed:
        """Raises MessageError."""
        if len(message) < 1 + PEER_BYTES:
            raise MessageError("a message ends within a peer's id")
        return cls(message[1 : 1 + PEER_BYTES].hex(), message[1 + PEER_BYTES :])

    def encode(self, tag: bytes) -> bytes:
        return tag + bytes.fromhex(self.peer) + self.content
