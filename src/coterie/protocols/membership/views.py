"""What one who knows a certain past knows of the members: who stands, who has a vote, who is the founder."""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.identity import PeerId
from coterie.ledger.records import RecordId
from coterie.protocols.membership.graph import Graph, Node
from coterie.protocols.membership.records import Admission, Countersignature, Expulsion, Leave, Renewal, Succession

ALL = -1
"""The past of one who knows every record."""


@dataclass(frozen=True)
class Quorum:
    """Who must sign an act: ``needed`` signatures, the author's included; for each other signer bits of its records."""

    needed: int
    signers: dict[PeerId, int]

    def signed(self, past: int) -> int:
        return 1 + sum(1 for bits in self.signers.values() if bits & past)

    def met(self, past: int) -> bool:
        return self.signed(past) >= self.needed


@dataclass
class View:
    """A graph, and of its records those that have been found to count so far."""

    graph: Graph
    order: list[Node] = field(default_factory=list)
    """All records, each after those it follows, as all peers order them."""
    counted: dict[int, Node] = field(default_factory=dict)
    """Acts that count, by their index: admissions, successions, expulsions, renewals, leaves."""
    votes: set[int] = field(default_factory=set)
    """Of these, admissions that give a vote."""
    quorums: dict[int, Quorum] = field(default_factory=dict)
    """For acts that need more signatures than their author's."""
    arrivals: dict[PeerId, list[Node]] = field(default_factory=dict)
    """All records that would admit a peer, in order."""
    removals: dict[PeerId, list[Node]] = field(default_factory=dict)
    """Expulsions and successions that count, by whom they remove."""
    founders: list[tuple[PeerId | None, Node]] = field(default_factory=list)
    """Who has been founder, and by which record; None: nobody is."""
    leaves: dict[PeerId, list[Node]] = field(default_factory=dict)
    countersigned: dict[RecordId, list[Node]] = field(default_factory=dict)
    renewals: dict[PeerId, list[Node]] = field(default_factory=dict)

    def sort(self, node: Node) -> None:
        """Put a record where it is looked for."""
        deed = node.deed
        if deed is None:
            self.founders.append((node.author, node))
            self.arrivals[node.author] = [node]
            self.counted[node.index] = node
            self.votes.add(node.index)
        elif isinstance(deed, Admission | Succession):
            self.arrivals.setdefault(deed.peer, []).append(node)
        elif isinstance(deed, Leave):
            self.leaves.setdefault(node.author, []).append(node)
        elif isinstance(deed, Countersignature):
            self.countersigned.setdefault(deed.record, []).append(node)
        elif isinstance(deed, Renewal):
            self.renewals.setdefault(node.author, []).append(node)

    def standing(self, peer: PeerId, past: int, *, vote: bool = False) -> Node | None:
        """The admission by which ``peer`` is a member, or has a vote, for one who knows ``past``."""
        if any(self.holds(removal, past) for removal in self.removals.get(peer, ())):
            return None
        for node in self.arrivals.get(peer, ()):
            fits = node.index in (self.votes if vote else self.counted)
            if fits and self.holds(node, past) and not self.has_left(peer, node, past):
                return node
        return None

    def holds(self, node: Node, past: int) -> bool:
        """Whether an act is in this past, and all signatures it needs."""
        if not node.bit & past:
            return False
        quorum = self.quorums.get(node.index)
        return quorum is None or quorum.met(past)

    def has_left(self, peer: PeerId, admission: Node, past: int) -> bool:
        """Whether ``past`` holds a leave that this admission did not know of."""
        return any(leave.bit & past and not leave.bit & admission.past for leave in self.leaves.get(peer, ()))

    def founder_at(self, past: int) -> PeerId | None:
        """The founder for one who knows ``past``; None when it has left, or was expelled."""
        peer = next(peer for peer, node in reversed(self.founders) if self.holds(node, past))
        if peer is None or any(leave.bit & past for leave in self.leaves.get(peer, ())):
            return None
        return peer

    def removed_beside(self, peer: PeerId, node: Node) -> bool:
        """Whether a removal of ``peer`` did not know of ``node``."""
        return any(not node.bit & removal.past for removal in self.removals.get(peer, ()))

    def knows(self, peer: PeerId, past: int) -> bool:
        """Whether ``past`` holds a record that would admit ``peer``."""
        return any(node.bit & past for node in self.arrivals.get(peer, ()))

    def voters(self, past: int, enough: int) -> int:
        """How many have a vote for one who knows ``past``; counts no further than ``enough``."""
        count = 0
        for peer in self.arrivals:
            count += self.standing(peer, past, vote=True) is not None
            if count >= enough:
                break
        return count


def target_of(node: Node) -> PeerId:
    """Whom a removal removes; empty for an admission, which removes nobody."""
    if isinstance(node.deed, Succession):
        return node.deed.old
    return node.deed.peer if isinstance(node.deed, Expulsion) else ""
