"""How a member that comes late gets a vote: its consent travels with its beats, and the next merge records it."""

from __future__ import annotations

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.identity.vrf import VrfKey
from coterie.ledger.encoding import pack
from coterie.ledger.shared import Join
from coterie.ledger.shared.changes import read as read_change
from coterie.ledger.shared.changes import record

LASTS = 10
"""Epochs for which a consent, or a removal, may be recorded."""


def make_join(identity: Identity, genesis: bytes, epoch: int) -> bytes:
    """The consent of a member to vote from two epochs after the one in which it is recorded, with one vote."""
    return pack(Join.make(identity, genesis, VrfKey.of(identity, genesis).public, 1, epoch + LASTS))


def read_join(data: bytes, genesis: bytes) -> Join | None:
    """The consent in ``data``, checked; None where it is none."""
    if not data:
        return None
    try:
        join = _joins.decode(data)
        probe = record(_ANYBODY, join, 0)
        read_change(probe, genesis)
    except (msgspec.MsgspecError, ValueError, LedgerError):
        return None
    return join


_ANYBODY = Identity.from_seed(bytes(32))
_joins = msgspec.msgpack.Decoder(Join)
