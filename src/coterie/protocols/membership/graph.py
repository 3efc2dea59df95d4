"""Records and what each of them follows: an acyclic graph from genesis, in which "is A in the past of B" is fast.

A record's past is everything it follows, directly or not; its author had seen that, and nothing else is sure about
when it was made. A past is one integer, bit i standing for the i-th record here: 10,000 records need 12 MB. Cycles
cannot be, since a record holds the hashes of its parents.

A record is refused for good, and never kept, for reasons that lie in itself or in its past, so that every peer refuses
it: it is malformed; it follows nothing, or a refused record; its time lies before that of a parent; its author had not
been admitted in its past. A record whose parents are missing waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.errors import MembershipError
from coterie.identity import PeerId
from coterie.ledger.records import Record, RecordId
from coterie.protocols.membership.genesis import Genesis, read_genesis
from coterie.protocols.membership.records import (
    Admission,
    Countersignature,
    Deed,
    Expulsion,
    Succession,
    read,
    refused,
)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A record in its place."""

    record: Record
    id: RecordId
    deed: Deed | None
    """None for genesis."""
    index: int
    bit: int
    past: int
    depth: int
    """Length of the longest way to genesis."""

    @property
    def author(self) -> PeerId:
        return self.record.author


@dataclass
class Graph:
    """All complete records of one federation. Raises MembershipError where ``genesis`` is no genesis record."""

    genesis: Record
    charter: Genesis = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    """In the order they came: parents first."""
    by_id: dict[RecordId, Node] = field(default_factory=dict)
    refused: dict[RecordId, str] = field(default_factory=dict)
    waiting: dict[RecordId, Record] = field(default_factory=dict)
    heads: dict[RecordId, Node] = field(default_factory=dict)
    """Records that no other one here follows."""
    _awaited: dict[RecordId, list[RecordId]] = field(default_factory=dict)
    """For a missing record those that wait for it."""
    _arrivals: dict[PeerId, int] = field(default_factory=dict)
    """Bits of the records that admit a peer."""
    _invited: dict[tuple[PeerId, bytes], int] = field(default_factory=dict)
    """Bits of the records that use an invitation, by who issued it."""

    def __post_init__(self) -> None:
        self.charter = read_genesis(self.genesis)
        root = Node(self.genesis, self.genesis.id, None, 0, 1, 0, 0)
        self._arrivals[self.genesis.author] = root.bit
        self._keep(root)

    def copy(self) -> Graph:
        """One that grows on its own."""
        other = Graph(self.genesis)
        other.nodes, other.by_id, other.refused = list(self.nodes), dict(self.by_id), dict(self.refused)
        other.waiting, other.heads = dict(self.waiting), dict(self.heads)
        other._awaited = {missing: list(ids) for missing, ids in self._awaited.items()}
        other._arrivals, other._invited = dict(self._arrivals), dict(self._invited)
        return other

    def add(self, record: Record) -> str:
        """Take in a record, and those that waited for it. What came of it: kept, known, waiting or refused."""
        outcome = self._add(record, record.id)
        if outcome in ("kept", "refused"):
            self._release(record.id)
        return outcome

    def insert(self, node: Node) -> None:
        """Take in a record that ``place`` has just put in its place, and those that waited for it."""
        self._keep(node)
        self._release(node.id)

    def missing(self, record: Record) -> list[RecordId]:
        """Parents that are not here."""
        return [parent for parent in record.parents if parent not in self.by_id and parent not in self.refused]

    def _add(self, record: Record, name: RecordId) -> str:
        if name in self.by_id or name in self.waiting:
            return "known"
        if name in self.refused:
            return "refused"
        missing = self.missing(record)
        if missing:
            self.waiting[name] = record
            for parent in missing:
                self._awaited.setdefault(parent, []).append(name)
            return "waiting"
        try:
            node = self.place(record)
        except MembershipError as error:
            self.refused[name] = error.what
            return "refused"
        self._keep(node)
        return "kept"

    def _release(self, name: RecordId) -> None:
        settled = [name]
        while settled:
            for waiter_id in self._awaited.pop(settled.pop(), ()):
                waiter = self.waiting.pop(waiter_id, None)
                if waiter is not None and self._add(waiter, waiter_id) != "waiting":
                    settled.append(waiter_id)

    def _keep(self, node: Node) -> None:
        if isinstance(node.deed, Admission | Succession):
            self._arrivals[node.deed.peer] = self._arrivals.get(node.deed.peer, 0) | node.bit
            invitation = node.author, node.deed.invitation
            self._invited[invitation] = self._invited.get(invitation, 0) | node.bit
        for parent in node.record.parents:
            self.heads.pop(parent, None)
        self.nodes.append(node)
        self.by_id[node.id] = self.heads[node.id] = node

    def place(self, record: Record) -> Node:
        """The place of a record whose parents are all here. Raises MembershipError if it is refused for good."""
        deed = read(record, self.genesis.id)
        if not record.parents:
            raise refused(record, "it follows nothing")
        if any(parent in self.refused for parent in record.parents):
            raise refused(record, "it follows a refused record")
        parents = [self.by_id[parent] for parent in record.parents]
        if record.time < max(parent.record.time for parent in parents):
            raise refused(record, "its time lies before that of a record it follows")
        past = 0
        for parent in parents:
            past |= parent.past | parent.bit
        self._require_author(record, past)
        if isinstance(deed, Countersignature):
            self._require_signable(record, deed, past)
        if isinstance(deed, Admission | Succession) and self._invited.get((record.author, deed.invitation), 0) & past:
            raise refused(record, "its invitation had been used")
        if isinstance(deed, Admission):
            if deed.stake != self.charter.stake_of(deed.peer):
                raise refused(record, f"genesis gives the newcomer a stake of {self.charter.stake_of(deed.peer)}")
            if self.charter.policy.until is not None and record.time > self.charter.policy.until:
                raise refused(record, "by its policy the federation had ended admission")
        index = len(self.nodes)
        depth = 1 + max(parent.depth for parent in parents)
        return Node(record, record.id, deed, index, 1 << index, past, depth)

    def _require_author(self, record: Record, past: int) -> None:
        if record.author not in self.charter.policy.recovery and not self._arrivals.get(record.author, 0) & past:
            raise refused(record, "its author had not been admitted")

    def _require_signable(self, record: Record, deed: Countersignature, past: int) -> None:
        signed = self.by_id.get(deed.record)
        if signed is None or not signed.bit & past:
            raise refused(record, "it does not follow the record it countersigns")
        if not isinstance(signed.deed, Admission | Succession | Expulsion) or signed.author == record.author:
            raise refused(record, "what it countersigns needs no signature of its author's")

    def in_order(self) -> list[Node]:
        """All records, by depth and then id: an order all peers agree on, each after those it follows."""
        return sorted(self.nodes, key=lambda node: (node.depth, node.id))
