"""How a message becomes bytes: a msgpack header, then the raw float32 elements of the snapshots it carries.

    frame   = prefix | header | chunk*
    prefix  = "CT" | wire version, u16 | header length, u32                       (big-endian)
    header  = msgpack [kind, id, message, [[size, layout hash, SHA-256], ...], line?]; in the message a snapshot is its
              index; the line names one of several conversations
    chunk   = length, u32 | at most 1 MiB of little-endian float32 elements       (snapshots in order of their index)

Everything read here comes from another peer: lengths, types, hashes and limits are checked, and any fault is a
MessageError. Whether elements are finite is checked where rows meet, at the door of ``aggregation``. The sender's name
is not in the frame: the transport knows it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import msgspec
import torch

from coterie.errors import MessageError
from coterie.layout import Snapshot, digest_of, element_bytes
from coterie.network.messages import Message, known_types, message_types

WIRE_VERSION = 1
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_SNAPSHOTS = 64
MAX_LINE_BYTES = 32
MAX_SNAPSHOT_ELEMENTS = 1 << 31
PREFIX = struct.Struct(">2sHI")
LENGTH = struct.Struct(">I")
_MAGIC = b"CT"

Kind = Literal["ask", "reply", "send"]


class Reference(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a header says of a snapshot: its elements, its layout's hash, and SHA-256 of its bytes."""

    size: Annotated[int, msgspec.Meta(gt=0, le=MAX_SNAPSHOT_ELEMENTS)]
    layout: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class _Header(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    id: Annotated[int, msgspec.Meta(ge=0)]
    message: msgspec.Raw
    snapshots: Annotated[list[Reference], msgspec.Meta(max_length=MAX_SNAPSHOTS)]


class _LinedHeader(_Header, array_like=True, frozen=True, forbid_unknown_fields=True):
    line: Annotated[bytes, msgspec.Meta(max_length=MAX_LINE_BYTES)] = b""


class MemorySnapshot(Snapshot):
    """A snapshot in this process's own memory. ``elements``: shape (size,), float32, contiguous; not copied.

    ``digest``: SHA-256 of the elements where it is known already. It is computed once, at its first use.
    """

    def __init__(self, layout_hash: str, elements: torch.Tensor, digest: bytes | None = None) -> None:
        self.layout_hash, self.size, self._elements = layout_hash, elements.numel(), elements
        self._digest = digest

    def tensor(self) -> torch.Tensor:
        return self._elements

    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = digest_of(self._elements)
        return self._digest


class Envelope(msgspec.Struct, frozen=True):
    """A message with what matches a reply to its question."""

    kind: Kind
    id: int
    message: Message


class Frame(msgspec.Struct, frozen=True):
    """An encoded message: its header, and the snapshots that follow it."""

    header: bytes
    snapshots: tuple[Snapshot, ...]

    @property
    def nbytes(self) -> int:
        """Length of the frame on the wire, known without touching an element."""
        length = PREFIX.size + len(self.header)
        for snapshot in self.snapshots:
            length += _wire_bytes(snapshot.size)
        return length

    @property
    def head(self) -> bytes:
        """The prefix and the header: what comes before the first snapshot."""
        return PREFIX.pack(_MAGIC, WIRE_VERSION, len(self.header)) + self.header

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The frame's bytes in pieces; elements are not copied."""
        yield self.head
        for snapshot in self.snapshots:
            data = element_bytes(snapshot.tensor())
            for start in range(0, len(data), CHUNK_BYTES):
                piece = data[start : start + CHUNK_BYTES]
                yield LENGTH.pack(len(piece))
                yield piece


class Codec:
    """Encodes and decodes messages of all registered types. Used by one event loop at a time.

    ``line``: names one of several conversations over one transport, at most 32 bytes; frames of others are refused.
    """

    def __init__(self, line: bytes = b"") -> None:
        self._line = line
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._refer)
        self._headers = msgspec.msgpack.Decoder(_LinedHeader)
        self._messages: msgspec.msgpack.Decoder[Message] | None = None
        self._known = 0
        self._snapshots: list[Snapshot] = []
        self._used = 0

    def encode(self, envelope: Envelope) -> Frame:
        """The frame of a message; snapshots are held, not copied."""
        self._snapshots = []
        message = msgspec.Raw(self._encoder.encode(envelope.message))
        snapshots = tuple(self._snapshots)
        references = [Reference(s.size, bytes.fromhex(s.layout_hash), s.digest()) for s in snapshots]
        return Frame(self._header(envelope.kind, envelope.id, message, references, self._line), snapshots)

    def decode(self, header: bytes, snapshots: tuple[Snapshot, ...]) -> Envelope:
        """The message of a header and the snapshots that came with it. Raises MessageError."""
        read = self._read(header)
        if read.line != self._line:
            raise MessageError("a message of another conversation")
        if len(snapshots) != len(read.snapshots):
            raise MessageError(f"{len(snapshots)} snapshots came, {len(read.snapshots)} are announced")
        for snapshot, reference in zip(snapshots, read.snapshots, strict=True):
            if (snapshot.size, snapshot.layout_hash) != (reference.size, reference.layout.hex()):
                raise MessageError("a snapshot is not as its header says")
            if snapshot.digest() != reference.digest:
                raise MessageError("a snapshot's bytes are not those that were sent")
        self._snapshots, self._used = list(snapshots), 0
        try:
            message = self._typed().decode(read.message)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MessageError(
                f"not a message: {str(error)[:200]!a}", remedy="Check that both peers run one version."
            ) from None
        if self._used != len(snapshots):
            raise MessageError(f"{len(snapshots)} snapshots came, {self._used} are referred to")
        return Envelope(read.kind, read.id, message)

    def parse(self, data: bytes) -> Envelope:
        """The message of a whole frame in memory. Raises MessageError."""
        length = header_length(data[: PREFIX.size])
        if PREFIX.size + length > len(data):
            raise MessageError(f"a header of {length} bytes is too long")
        header, rest = data[PREFIX.size : PREFIX.size + length], memoryview(data)[PREFIX.size + length :]
        snapshots = []
        for reference in self._read(header).snapshots:
            elements, rest = _read_elements(rest, reference.size)
            snapshots.append(MemorySnapshot(reference.layout.hex(), elements))
        if len(rest):
            raise MessageError(f"{len(rest)} bytes follow the frame")
        return self.decode(header, tuple(snapshots))

    def references(self, header: bytes) -> list[Reference]:
        """What a header says of the snapshots that follow it. Raises MessageError."""
        return self._read(header).snapshots

    def line_of(self, header: bytes) -> bytes:
        """Which conversation a frame belongs to, by its header. Raises MessageError."""
        return self._read(header).line

    def with_digests(self, header: bytes, digests: Iterable[bytes]) -> bytes:
        """The header with other digests: a transport may change elements on the way, within a stated bound."""
        read = self._read(header)
        references = [Reference(r.size, r.layout, d) for r, d in zip(read.snapshots, digests, strict=True)]
        return self._header(read.kind, read.id, read.message, references, read.line)

    def _header(self, kind: Kind, number: int, message: msgspec.Raw, references: list[Reference], line: bytes) -> bytes:
        plain = _Header(kind, number, message, references)
        return self._encoder.encode(_LinedHeader(kind, number, message, references, line) if line else plain)

    def _read(self, header: bytes) -> _LinedHeader:
        try:
            return self._headers.decode(header)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MessageError(
                f"not a header: {str(error)[:200]!a}", remedy="Check that both peers run one version."
            ) from None

    def _typed(self) -> msgspec.msgpack.Decoder[Message]:
        if self._messages is None or self._known != known_types():
            union: Any = reduce(or_, message_types())
            self._messages = msgspec.msgpack.Decoder(union, dec_hook=self._resolve)
            self._known = known_types()
        return self._messages

    def _refer(self, value: object) -> int:
        if not isinstance(value, Snapshot):
            raise TypeError(f"{type(value).__name__} cannot travel in a message")
        self._snapshots.append(value)
        return len(self._snapshots) - 1

    def _resolve(self, kind: type, value: object) -> Snapshot:
        if kind is not Snapshot or type(value) is not int or value != self._used or self._used >= len(self._snapshots):
            raise ValueError("a snapshot is referred to that did not come")
        self._used += 1
        return self._snapshots[self._used - 1]


def header_length(prefix: bytes) -> int:
    """The length of the header that a frame's ``prefix`` announces. Raises MessageError."""
    if len(prefix) < PREFIX.size:
        raise MessageError("a frame ends within its prefix")
    magic, version, length = PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise MessageError("not a frame")
    if version != WIRE_VERSION:
        raise MessageError(f"wire version {version} is not {WIRE_VERSION}", remedy="Upgrade the older peer.")
    if length > MAX_HEADER_BYTES:
        raise MessageError(f"a header of {length} bytes is too long")
    return int(length)


def _read_elements(rest: memoryview, size: int) -> tuple[torch.Tensor, memoryview]:
    """The ``size`` float32 elements at the head of ``rest``, and what follows them."""
    if 4 * size > len(rest):
        raise MessageError(f"a snapshot of {size} elements did not come whole")
    data = bytearray()
    while len(data) < 4 * size:
        if len(rest) < LENGTH.size:
            raise MessageError("a frame ends within a chunk")
        (length,) = LENGTH.unpack_from(rest)
        if length != min(CHUNK_BYTES, 4 * size - len(data)) or LENGTH.size + length > len(rest):
            raise MessageError(f"a chunk of {length} bytes is not of the right length")
        data += rest[LENGTH.size : LENGTH.size + length]
        rest = rest[LENGTH.size + length :]
    return torch.frombuffer(data, dtype=torch.float32), rest


def _wire_bytes(size: int) -> int:
    return 4 * size + LENGTH.size * -(-4 * size // CHUNK_BYTES)
