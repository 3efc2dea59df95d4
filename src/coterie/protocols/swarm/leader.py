"""Who leads the next merge, and who after it should the leader fail: a rotation that everybody can reckon.

Every member leads once in a cycle, in an order that a beacon draws anew for each merge among those that have not led
yet. The beacon is the hash of the last merge's record, for the first one that of the record that opened the training.

Threat model. Whoever writes the last merge's record can try many of them until the draw suits it. What it gains is
little: it chooses who of those still due comes next, and cannot lead a second time before all others had their turn; at
the end of a cycle it can make itself the first of the next one. A member that is made to miss its turn, by an attack on
its network say, has lost it for this cycle. That a leader has failed is for the members to agree on, not for the next
one to claim. The leader of a merge sees all models that go into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from coterie.errors import MessageError
from coterie.protocols.peer import PeerId

_PURPOSE = b"coterie swarm leader\0"


def lead_order(members: Iterable[PeerId], turns: Mapping[PeerId, int], beacon: bytes) -> tuple[PeerId, ...]:
    """The members in the order in which they are to lead the next merge: the first, and its deputies one by one.

    By the turns they had, the fewest first, and among equals by SHA-256(purpose || beacon || peer). A member without a
    count, as one that has just joined, counts as one of those with the fewest. ``beacon``: 32 bytes.
    """
    present = sorted(set(members))
    least = _least(present, turns)
    return tuple(sorted(present, key=lambda peer: (turns.get(peer, least), _draw(beacon, peer))))


def turns_after(order: Sequence[PeerId], turns: Mapping[PeerId, int], leader: PeerId) -> dict[PeerId, int]:
    """The turns that the members of ``order`` have had once ``leader`` has merged.

    One more for it, and for those it came after: they had their turn and missed it, or one that is down would be waited
    for at every merge. Counted from the fewest, which stays 0. Members that are gone are forgotten.

    Raises MessageError where ``leader`` is not in ``order``.
    """
    if leader not in order:
        raise MessageError("a merge by a peer that is no member", where=leader[:12], remedy="It does not count.")
    least = _least(order, turns)
    had = order[: order.index(leader) + 1]
    found = {peer: turns.get(peer, least) + (peer in had) for peer in sorted(order)}
    fewest = min(found.values())
    return {peer: count - fewest for peer, count in found.items()}


def _least(members: Iterable[PeerId], turns: Mapping[PeerId, int]) -> int:
    return min((turns[peer] for peer in members if peer in turns), default=0)


def _draw(beacon: bytes, peer: PeerId) -> bytes:
    return hashlib.sha256(_PURPOSE + beacon + peer.encode()).digest()
