"""Signed records: one encoding of each content, one id, one signature.

A record's bytes are the msgpack array [kind, author, parents, time, content, signature]. Its id is SHA-256 over the
array without the signature; the author signs the same bytes for the purpose "record". Content is a map in canonical
msgpack: keys sorted, shortest integers, 64-bit floats, all finite. Whoever reads a record checks that encoding it again
gives the same bytes, so no two encodings of one content exist.
"""

from __future__ import annotations

import hashlib
import math
import time as clock
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity, verify

MOST_BYTES = 1 << 16
"""Of a record's content."""
MOST_PARENTS = 64
_DEPTH = 8
_PURPOSE = "record"
_HASH = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

RecordId: TypeAlias = bytes
"""SHA-256, 32 bytes."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something a peer has said and cannot take back. Check one from elsewhere before believing it."""

    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    author: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    parents: Annotated[tuple[_HASH, ...], msgspec.Meta(max_length=MOST_PARENTS)]
    """Ids of records that the author had seen and that this one follows, sorted."""
    time: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    """Milliseconds since 1970, by the author's clock: its word."""
    body: Annotated[bytes, msgspec.Meta(max_length=MOST_BYTES)]
    """The content's canonical bytes."""
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    @classmethod
    def make(
        cls,
        identity: Identity,
        kind: str,
        content: Mapping[str, Any],
        parents: Iterable[RecordId] = (),
        time: int | None = None,
    ) -> Record:
        """A signed record; ``time`` is now where None. Raises LedgerError for content that has no canonical form."""
        now = int(clock.time() * 1000) if time is None else time
        unsigned = cls(kind, identity.id, tuple(sorted(set(parents))), now, canonical(content), bytes(64))
        record = msgspec.structs.replace(unsigned, signature=identity.sign(_PURPOSE, unsigned._signed))
        record.check()
        return record

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """A record of its bytes, checked. Raises LedgerError."""
        try:
            record = _decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise LedgerError(f"not a record: {error}") from None
        if _encoder.encode(record) != data:
            raise LedgerError("a record is not encoded canonically", where=record.where)
        record.check()
        return record

    def encode(self) -> bytes:
        return _encoder.encode(self)

    @property
    def id(self) -> RecordId:
        return hashlib.sha256(self._signed).digest()

    @property
    def where(self) -> str:
        return f"{self.kind} record {self.id.hex()[:16]} of {self.author[:12]}"

    @property
    def content(self) -> dict[str, Any]:
        """The body, decoded afresh at each call."""
        found = msgspec.msgpack.decode(self.body)
        if not isinstance(found, dict):
            raise LedgerError("a record's content is no map", where=self.where)
        return found

    def check(self) -> None:
        """Raise LedgerError unless it is in canonical form and its author has signed it."""
        if list(self.parents) != sorted(set(self.parents)):
            raise LedgerError("a record's parents are not sorted, or named twice", where=self.where)
        try:
            again = canonical(self.content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            again = b""
        if again != self.body:
            raise LedgerError("a record's content is not in canonical form", where=self.where)
        if not verify(self.author, _PURPOSE, self._signed, self.signature):
            raise LedgerError("a record is not signed by its author", where=self.where)

    @property
    def _signed(self) -> bytes:
        return _encoder.encode((self.kind, self.author, self.parents, self.time, self.body))


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one encoding of ``content``. Raises LedgerError for what has none: NaN, sets, keys that are not strings."""
    _require(dict(content), 0)
    data = _encoder.encode(content)
    if len(data) > MOST_BYTES:
        raise LedgerError(f"a record of {len(data)} bytes is too long", remedy=f"At most {MOST_BYTES} are kept.")
    return data


def _require(value: Any, depth: int) -> None:
    if depth > _DEPTH:
        raise LedgerError(f"a record is nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise LedgerError(f"a record has the key {key!r}, not a string")
            _require(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _require(item, depth + 1)
    elif type(value) is float:
        if not math.isfinite(value):
            raise LedgerError(f"a record holds {value}")
    elif type(value) is int:
        if not -(1 << 63) <= value < 1 << 64:
            raise LedgerError("a record holds an integer of more than 64 bits")
    elif value is not None and type(value) not in (bool, str, bytes):
        raise LedgerError(f"a record cannot hold a {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoder = msgspec.msgpack.Decoder(Record)
