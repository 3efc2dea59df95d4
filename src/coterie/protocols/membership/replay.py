"""From records to members: a pure function of the set of records, whatever the order in which they came.

    replay = Replay(genesis)
    replay.add(record)         # "kept", "known", "waiting" for parents, or "refused"
    replay.membership()        # the members, and what did not count and why

``graph`` keeps what is well formed, ``judge`` says which acts count, ``seats`` who has a seat.

Threat model. Records come from anybody, in any order, and some never come. A hostile member can sign what it likes as
often as it likes, also records that hide what it knows ("beside" what it has seen); two such records are no offence by
themselves, since an honest peer that lost its disk makes them too. What it can reach: only what its rights in that past
allowed, and nothing beside its own removal. It cannot make two honest peers that have the same records disagree.

Times are their authors' word. A record is never earlier than what it follows; beyond that, a liar may date an admission
back to before ``until`` or an invitation's end, no further than the newest record it admits to have seen. It gains an
admission that it could have made in time. A date in the future would force later ones upon all who follow it, and end
admission early; so peers keep no record from the future, by their own clocks (see ``book``).
"""

from __future__ import annotations

from dataclasses import dataclass

from coterie.identity import Certificate, PeerId
from coterie.ledger.records import Record, RecordId
from coterie.protocols.membership.genesis import Genesis
from coterie.protocols.membership.graph import Graph, Node
from coterie.protocols.membership.judge import Judgement
from coterie.protocols.membership.records import (
    Admission,
    Expulsion,
    Renewal,
    Succession,
    certificate_of,
)
from coterie.protocols.membership.seats import Seating
from coterie.protocols.membership.views import ALL


@dataclass(frozen=True)
class Member:
    """One who is in."""

    peer: PeerId
    name: str
    """As it calls itself; anybody may call itself anything."""
    stake: int
    certificates: tuple[Certificate, ...]
    """Newest first: the one it uses, and the one before, with which it may still be met."""
    since: int
    """ms since 1970, by the clock of who admitted it."""
    admitted_by: PeerId
    voter: bool


@dataclass(frozen=True)
class Removal:
    """One who was expelled, or whose key was replaced."""

    peer: PeerId
    by: PeerId
    record: RecordId
    reason: str
    successor: PeerId | None


@dataclass(frozen=True)
class Pending:
    """An act that counts once ``needed`` have signed it; ``signed`` have."""

    signed: int
    needed: int


@dataclass(frozen=True)
class Membership:
    """Who is in, and why others are not. Two peers with the same records have equal ones."""

    federation: RecordId
    founder: PeerId | None
    members: dict[PeerId, Member]
    """In the order of their places."""
    places: tuple[PeerId, ...]
    """Who has each seat that was ever taken, or had it last, in the order of seating: a successor sits where its
    predecessor sat."""
    expelled: dict[PeerId, Removal]
    left: tuple[PeerId, ...]
    pending: dict[RecordId, Pending]
    rejected: dict[RecordId, str]
    """Records that do not count, each with its reason."""
    waiting: dict[RecordId, tuple[RecordId, ...]]
    """Records whose parents are missing."""

    def is_member(self, peer: PeerId) -> bool:
        return peer in self.members


class Replay:
    """All records of one federation known here. Raises MembershipError where ``genesis`` is no genesis record."""

    def __init__(self, genesis: Record) -> None:
        self.graph = Graph(genesis)
        self._membership: Membership | None = None

    @property
    def genesis(self) -> Genesis:
        return self.graph.charter

    @property
    def federation(self) -> RecordId:
        return self.graph.genesis.id

    def copy(self) -> Replay:
        """One that goes its own way: to see what a record would do."""
        other = Replay.__new__(Replay)
        other.graph, other._membership = self.graph.copy(), self._membership
        return other

    def add(self, record: Record) -> str:
        """Take in a record that ``Record.decode`` or ``check`` has passed. What came of it, see the module."""
        before = len(self.graph.nodes), len(self.graph.refused), len(self.graph.waiting)
        outcome = self.graph.add(record)
        if before != (len(self.graph.nodes), len(self.graph.refused), len(self.graph.waiting)):
            self._membership = None
        return outcome

    def insert(self, node: Node) -> None:
        """Take in what ``graph.place`` has just put in its place."""
        self.graph.insert(node)
        self._membership = None

    def membership(self) -> Membership:
        """Computed when something has changed since it was last asked for."""
        if self._membership is None:
            self._membership = _membership(self.graph)
        return self._membership


def _membership(graph: Graph) -> Membership:
    judged = Judgement(graph)
    seating = Seating(judged)
    places = _places(seating)
    members = {
        peer: _member(judged, seat)
        for peer in places
        for seat in seating.seated[peer]
        if peer not in judged.removals and not judged.has_left(peer, seat, ALL)
    }
    nodes = graph.nodes
    reasons = {**judged.reasons, **seating.reasons}
    rejected = {nodes[index].id: reasons[index] for index in sorted(reasons)}
    return Membership(
        federation=graph.genesis.id,
        founder=judged.founder_at(ALL),
        members=members,
        places=places,
        expelled={peer: _removal(peer, acts[0]) for peer, acts in judged.removals.items()},
        left=tuple(peer for peer in seating.seated if peer not in members and peer not in judged.removals),
        pending={nodes[i].id: Pending(q.signed(ALL), q.needed) for i, q in judged.pending.items()},
        rejected={**rejected, **graph.refused},
        waiting={name: tuple(graph.missing(record)) for name, record in graph.waiting.items()},
    )


def _places(seating: Seating) -> tuple[PeerId, ...]:
    places: list[PeerId] = []
    number: dict[PeerId, int] = {}
    for peer, seats in seating.seated.items():
        deed = seats[0].deed
        old = deed.old if isinstance(deed, Succession) else ""
        if old in number:
            number[peer] = number[old]
            places[number[peer]] = peer
        else:
            number[peer] = len(places)
            places.append(peer)
    return tuple(places)


def _member(judged: Judgement, seat: Node) -> Member:
    deed, charter = seat.deed, judged.graph.charter
    if isinstance(deed, Admission | Succession):
        peer, name, first = deed.peer, deed.name, certificate_of(deed)
    else:
        peer, name, first = seat.author, charter.name, Certificate(seat.author, charter.certificate, charter.binding)
    certificates = [first] + [
        Certificate(peer, node.deed.certificate, node.deed.binding)
        for node in judged.renewals.get(peer, ())
        if isinstance(node.deed, Renewal) and node.index in judged.counted
    ]
    return Member(
        peer=peer,
        name=name,
        stake=_stake(judged, seat),
        certificates=tuple(reversed(certificates[-2:])),
        since=seat.record.time,
        admitted_by=seat.author,
        voter=judged.standing(peer, ALL, vote=True) is not None,
    )


def _stake(judged: Judgement, seat: Node) -> int:
    """A successor has the stake of the first in its line."""
    peer = seat.author if seat.deed is None else ""
    while isinstance(seat.deed, Succession):
        peer = seat.deed.old
        known = [node for node in judged.arrivals[peer] if node.bit & seat.past]
        seat = next((node for node in known if node.index in judged.counted), known[0])
    if isinstance(seat.deed, Admission):
        peer = seat.deed.peer
    return judged.graph.charter.stake_of(peer)


def _removal(peer: PeerId, node: Node) -> Removal:
    deed = node.deed
    successor = deed.peer if isinstance(deed, Succession) else None
    reason = deed.reason if isinstance(deed, Expulsion | Succession) else ""
    return Removal(peer=peer, by=node.author, record=node.id, reason=reason, successor=successor)
