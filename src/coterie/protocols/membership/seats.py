"""Who has a seat, where more were admitted beside each other than there are seats.

Admissions are gone through in an order all peers agree on: first those that a record of the founder's follows, the
earlier such record first; then by depth; then by id. Each takes a seat if one is free for one who knows its past: of
those seated so far, who has left or been removed in that past sits there no more. Who finds none is not a member, stays
without, and may be admitted anew when there is room. A successor takes its predecessor's seat.

Depth alone would let a member admit friends "long ago", by records that follow old ones only, and so unseat others.
Whom the founder has seen seated cannot be unseated like that; who is unseated so has the seat back when the culprit is
expelled, since then its late admissions do not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.identity import PeerId
from coterie.protocols.membership.graph import Node
from coterie.protocols.membership.judge import Judgement
from coterie.protocols.membership.records import Admission, Succession


@dataclass
class Seating:
    """The seats of a judged graph."""

    judged: Judgement
    seated: dict[PeerId, list[Node]] = field(default_factory=dict)
    """By peer the admissions by which it has or had a seat, in the order of seating."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why an admission that counts got no seat."""
    _taken: int = 0
    _ended: list[tuple[PeerId, Node]] = field(default_factory=list)
    """Seats whose end some record tells of."""

    def __post_init__(self) -> None:
        for node in self._order():
            fault = self._fault(node)
            if fault:
                self.reasons[node.index] = fault
            else:
                self._seat(node)

    def _order(self) -> list[Node]:
        judged, seen, sealed = self.judged, 0, {}
        admissions = [node for node in judged.order if _admits(node) and node.index in judged.counted]
        everyone = sum(node.bit for node in admissions)
        for rank, node in enumerate(judged.order):
            if node.deed is None or self._is_founders(node):
                fresh = (node.past | node.bit) & everyone & ~seen
                seen |= fresh
                while fresh:
                    lowest = fresh & -fresh
                    sealed[lowest] = rank
                    fresh ^= lowest
        last = len(judged.order)
        return sorted(admissions, key=lambda node: (sealed.get(node.bit, last), node.depth, node.id))

    def _is_founders(self, node: Node) -> bool:
        """Whether the founder has signed it, and not beside its own replacement."""
        judged = self.judged
        return any(node.author == peer for peer, _ in judged.founders) and (
            node.author == judged.founder_at(node.past) and not judged.removed_beside(node.author, node)
        )

    def _fault(self, node: Node) -> str:
        judged, peer = self.judged, _newcomer(node)
        if judged.removed_beside(peer, node):
            return "that peer was expelled, and an expelled key is never admitted again"
        if any(not judged.has_left(peer, seat, node.past) for seat in self.seated.get(peer, ())):
            return "that peer is a member already"
        if node.index in judged.sponsors and not any(s.bit & node.past for s in self.seated.get(node.author, ())):
            return "who admitted it had no seat"
        free = judged.policy.seats - self._taken
        if free <= 0:
            old = node.deed.old if isinstance(node.deed, Succession) else None
            free += sum(who == old or self._is_over(who, seat, node.past) for who, seat in self._ended)
        return "" if free > 0 else "no seat was free"

    def _is_over(self, peer: PeerId, seat: Node, past: int) -> bool:
        removals = self.judged.removals.get(peer, ())
        return self.judged.has_left(peer, seat, past) or any(self.judged.holds(r, past) for r in removals)

    def _seat(self, node: Node) -> None:
        peer = _newcomer(node)
        self.seated.setdefault(peer, []).append(node)
        self._taken += 1
        if peer in self.judged.removals or peer in self.judged.leaves:
            self._ended.append((peer, node))


def _admits(node: Node) -> bool:
    return node.deed is None or isinstance(node.deed, Admission | Succession)


def _newcomer(node: Node) -> PeerId:
    return node.deed.peer if isinstance(node.deed, Admission | Succession) else node.author
