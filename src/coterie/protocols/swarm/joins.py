"""How a member that comes late gets a vote, and one that leaves gives it up: the next merge records what it has signed.

A consent travels with a member's beats, a leave with its last one. Both hold from two epochs after the one in which
they are recorded. A leave forks nothing, whatever the quorum: epochs follow each other only by the votes of those who
vote in them. It never makes it harder to decide for those who stay, as a majority of fewer is not more. It is not
recorded where the voters would become fewer than the rule needs, nor by an honest leader once the member is back. One
that comes back later takes part at once, and votes again when its key is free: ``LASTS`` merges later, as long as an
old consent or leave could be used.

Threat model. With two thirds, liars must be below a third of those who stay: when honest sites leave, that is fewer. A
leader that lies may record a leave, which nobody has recorded, of a site that is back; not once a check-in of that site
for a later merge than the next when it left has been merged. That is seen from the chain alone, by voters and audits.
Whom a voter hears decides nothing: a member could tell leaders that it leaves and all others that it stays, and no
merge would get their votes. A leave of an earlier membership is out of date before its author's key is free.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.identity import PeerId as Key
from coterie.identity.vrf import VrfKey
from coterie.ledger.encoding import pack
from coterie.ledger.records import Record
from coterie.ledger.shared import Join, Leave, QuorumRule
from coterie.ledger.shared.changes import read as read_change
from coterie.ledger.shared.changes import record

LASTS = 10
"""Epochs for which a consent, a leave or a removal may be recorded."""
_LEAST_FOR_LIARS = 4


def make_join(identity: Identity, genesis: bytes, epoch: int) -> bytes:
    """The consent of a member to vote from two epochs after the one in which it is recorded, with one vote."""
    return pack(Join.make(identity, genesis, VrfKey.of(identity, genesis).public, 1, epoch + LASTS))


def read_join(data: bytes, genesis: bytes) -> Join | None:
    """The consent in ``data``, checked; None where it is none, or to more than one vote, which no block may have."""
    if not data:
        return None
    try:
        join = _joins.decode(data)
        probe = record(_ANYBODY, join, 0)
        read_change(probe, genesis)
    except (msgspec.MsgspecError, ValueError, LedgerError):
        return None
    return join if join.weight == 1 else None


def make_leave(identity: Identity, genesis: bytes, epoch: int, time: int) -> bytes:
    """The record by which a voter gives up its vote. ``time``: ms since 1970."""
    return record(identity, Leave(genesis=genesis, until=epoch + LASTS), time).encode()


def read_leave(data: bytes, genesis: bytes, author: Key, epoch: int, checked_in: Mapping[Key, int]) -> Record | None:
    """The leave of ``author`` in ``data``, checked; None where it is none that may be recorded in this epoch.

    ``checked_in``: as ``is_back`` takes it.
    """
    if not data:
        return None
    try:
        found = Record.decode(data)
        change = read_change(found, genesis)
    except LedgerError:
        return None
    if change is None or not isinstance(change.says, Leave) or change.author != author:
        return None
    in_time = epoch <= change.says.until <= epoch + LASTS
    return found if in_time and not is_back(author, change.says, checked_in) else None


def is_back(author: Key, leave: Leave, checked_in: Mapping[Key, int]) -> bool:
    """Whether a leave is of no use any more: its author has checked in for a merge after the one that came next then.

    ``checked_in``: the last merge that each site's check-in went into, that of the leave's own block counted.
    """
    return checked_in.get(author, -1) > leave.until - LASTS


def may_leave(rule: QuorumRule, left: int) -> bool:
    """Whether ``left`` voters are enough to go on with."""
    return left >= max(rule.min_peers, _LEAST_FOR_LIARS if rule.kind == "two thirds" else 1)


_ANYBODY = Identity.from_seed(bytes(32))
_joins = msgspec.msgpack.Decoder(Join)
