"""Signed records: one encoding of each content, one id, one signature.

A record's bytes are the msgpack array [kind, author, parents, time, body, signature]. Its id is SHA-256 over the array
without the signature; the author signs the same bytes for the purpose "record". The body is the content, a map in
canonical msgpack: keys sorted, shortest integers, 64-bit floats, all finite. Whoever reads a record checks that
encoding it again gives the same bytes, so no two encodings of one content exist.

An author could sign one record twice in different ways (Ed25519 lets a dishonest signer do so). Both have one id and
say one thing; they are the same record.
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
from coterie.ledger.encoding import Hash, Key, Signature, Time, pack, parse

MOST_BYTES = 1 << 16
"""Of a record's content."""
MOST_PARENTS = 64
MOST_RECORD_BYTES = MOST_BYTES + 34 * MOST_PARENTS + 256
"""Of a whole record: content, parents, and the rest."""
_DEPTH = 8
_PURPOSE = "record"

RecordId: TypeAlias = bytes
"""SHA-256, 32 bytes."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something a peer has said and cannot take back. Check one from elsewhere before believing it."""

    kind: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9 _.-]{0,31}\Z")]
    """Lower-case letters, digits, and a few signs: it is shown in logs as it is."""
    author: Key
    parents: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MOST_PARENTS)]
    """Ids of records that the author had seen and that this one follows, sorted."""
    time: Time
    body: Annotated[bytes, msgspec.Meta(max_length=MOST_BYTES)]
    """The content's canonical bytes."""
    signature: Signature

    @classmethod
    def make(
        cls,
        identity: Identity,
        kind: str,
        content: Mapping[str, Any],
        parents: Iterable[RecordId] = (),
        time: int | None = None,
    ) -> Record:
        """A signed record; ``time`` is now where None. Raises LedgerError for what others would refuse."""
        now = int(clock.time() * 1000) if time is None else time
        unsigned = cls(kind, identity.id, tuple(sorted(set(parents))), now, canonical(content), bytes(64))
        signed = msgspec.structs.replace(unsigned, signature=identity.sign(_PURPOSE, unsigned._signed))
        return cls.decode(signed.encode())

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """The record in ``data``, in canonical form and signed by its author. Raises LedgerError."""
        record = parse(_decoder, data, "a record", MOST_RECORD_BYTES)
        if list(record.parents) != sorted(set(record.parents)):
            raise LedgerError("a record's parents are not sorted, or named twice", where=record.where)
        if not _is_canonical(record.body):
            raise LedgerError("a record's content is not in canonical form", where=record.where)
        if not verify(record.author, _PURPOSE, record._signed, record.signature):
            raise LedgerError("a record is not signed by its author", where=record.where)
        return record

    def encode(self) -> bytes:
        return pack(self)

    def check(self) -> None:
        """Raise LedgerError unless ``decode`` would take its bytes."""
        Record.decode(self.encode())

    @property
    def id(self) -> RecordId:
        return hashlib.sha256(self._signed).digest()

    @property
    def where(self) -> str:
        return f"{self.kind} record {self.id.hex()[:16]} of {self.author[:12]}"

    @property
    def content(self) -> dict[str, Any]:
        """The body, decoded afresh at each call."""
        return _contents.decode(self.body)

    @property
    def _signed(self) -> bytes:
        return pack((self.kind, self.author, self.parents, self.time, self.body))


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one encoding of ``content``. Raises LedgerError for what has none: NaN, sets, keys that are not strings."""
    found = dict(content)
    _require(found, 0)
    data = pack(found)
    if len(data) > MOST_BYTES:
        raise LedgerError(f"a record of {len(data)} bytes is too long", remedy=f"At most {MOST_BYTES} are kept.")
    return data


def _is_canonical(body: bytes) -> bool:
    try:
        return canonical(_contents.decode(body)) == body
    except (LedgerError, msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _require(value: Any, depth: int) -> None:
    if depth > _DEPTH:
        raise LedgerError(f"a record is nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise LedgerError(f"a record has a key of type {type(key).__name__}, not a string")
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


_decoder = msgspec.msgpack.Decoder(Record)
_contents: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
