"""Which records count, of all there are: the same answer for the same records, whatever the order they came in.

A record is judged by what is in its own past, and by removals (``expel``, ``successor``) wherever they stand. There are
four ranks of acts, and a removal undoes what its target signed outside the removal's past ("beside it") only in the
ranks below:

1. **recovery**: more than half of the recovery keys of genesis have signed. Nothing undoes it.
2. **quorum**: k voters have signed. One of them expelled beside it takes nothing away: it needs k, and fewer than k
   are bad. It falls only where a voter's own admission falls, or recovery has removed the voter.
3. **founder**: the founder alone has signed. Only recovery undoes it.
4. **member**: what a member does alone: admissions where any may admit, its certificates. Any removal of the member
   undoes those beside it, and a fallen admission takes along whatever its peer did as a member.

So expulsion wins over what the expelled does at the same time; whom it admitted before, in the removal's past, stays.
Two who expel each other are both out. Each rank depends only on those above it and on what lies deeper in the past, so
one reading in order of depth settles each rank, and it cannot go round in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.identity import PeerId
from coterie.protocols.membership.graph import Node
from coterie.protocols.membership.records import (
    Admission,
    Countersignature,
    Expulsion,
    Leave,
    Renewal,
    Succession,
)
from coterie.protocols.membership.views import ALL, Quorum, View, target_of

MOST_SPONSORS = 32
"""Steps from the founder to a member, from sponsor to sponsor."""


@dataclass
class Judgement(View):
    """The verdict on every record of a graph as it is now: a few operations a record, on integers of a bit a record."""

    reasons: dict[int, str] = field(default_factory=dict)
    """Why a record does not count, by its index."""
    sponsors: dict[int, Node] = field(default_factory=dict)
    """For an admission by a mere member, that member's own admission."""
    _recovered: dict[PeerId, Node] = field(default_factory=dict)
    """Whom recovery keys have removed, and by which record."""
    _recovery: set[int] = field(default_factory=set)
    """Acts of the first rank."""
    _succeeded: set[PeerId] = field(default_factory=set)
    _distance: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = self.graph.charter.policy
        order = self.order = self.graph.in_order()
        for node in order:
            self.sort(node)
        for node in order:
            if isinstance(node.deed, Succession | Expulsion) and node.author in self.policy.recovery:
                self._judge_recovery(node)
        alone = []
        for node in order:
            if isinstance(node.deed, Countersignature):
                self._judge_signature(node, self.graph.by_id[node.deed.record])
            elif isinstance(node.deed, Admission | Succession | Expulsion) and not self._judge_core(node):
                alone.append(node)
        for node in alone:
            self._judge_sponsored(node)
        for node in order:
            if isinstance(node.deed, Renewal | Leave):
                self._judge_own(node)

    @property
    def pending(self) -> dict[int, Quorum]:
        """Acts that wait for more signatures."""
        return {i: q for i, q in self.quorums.items() if i not in self.counted and i not in self.reasons}

    # First rank

    def _judge_recovery(self, node: Node) -> None:
        signers: dict[PeerId, int] = {}
        for signature in self.countersigned.get(node.id, ()):
            if signature.author in self.policy.recovery:
                signers[signature.author] = signers.get(signature.author, 0) | signature.bit
        quorum = Quorum(self.policy.recoverers, signers)
        if not quorum.met(ALL) and node.author in self.arrivals:
            return  # it is, or was, a member too: perhaps it acts as such
        self._recovery.add(node.index)
        self.quorums[node.index] = quorum
        target = target_of(node)
        if target in self._recovered:
            self.reasons[node.index] = "recovery keys have removed that peer already"
        elif fault := self._removal_fault(node):
            self.reasons[node.index] = fault
        elif quorum.met(ALL):
            self._recovered[target] = node
            if target == self.founders[-1][0]:
                self.founders.append((node.deed.peer if isinstance(node.deed, Succession) else None, node))
            self._count(node, vote=True)

    # Second and third rank

    def _judge_core(self, node: Node) -> bool:
        """False: a member acts alone, which is judged later."""
        if node.index in self._recovery:
            return True
        founder, rules = self.founder_at(node.past), self._rules(node)
        if rules == ["any"] and node.author != founder:
            return False
        if founder is None:
            rules = ["quorum"]
        fault = self._core_fault(node, founder, rules)
        if fault:
            self.reasons[node.index] = fault
        elif "quorum" in rules:
            self.quorums[node.index] = Quorum(self._needed(node), {})
            self._settle(node)
        else:
            self._count(node, vote=True)
        return True

    def _rules(self, node: Node) -> list[str]:
        """What the policy says about such an act. A succession needs both rights."""
        if isinstance(node.deed, Admission):
            return [self.policy.admit]
        return [self.policy.expel] if isinstance(node.deed, Expulsion) else [self.policy.admit, self.policy.expel]

    def _core_fault(self, node: Node, founder: PeerId | None, rules: list[str]) -> str:
        if self._recovered_beside(node.author, node):
            return "recovery keys had removed its author, and did not know of it"
        if "founder" in rules and node.author != founder:
            return "only the founder may do that"
        if node.author != founder and self.standing(node.author, node.past, vote=True) is None:
            return "its author was no member with a vote"
        if isinstance(node.deed, Admission):
            return ""
        if target_of(node) == founder:
            return "only recovery keys can replace the founder"
        return self._removal_fault(node)

    def _removal_fault(self, node: Node) -> str:
        if not self.knows(target_of(node), node.past):
            return "whom it removes was no member"
        if isinstance(node.deed, Succession) and self.knows(node.deed.peer, node.past):
            return "the successor's key is known already"
        return ""

    def _needed(self, node: Node) -> int:
        """An admission needs k signatures, or those of all voters where there are fewer; a removal k."""
        k = self.policy.quorum
        return max(1, self.voters(node.past, k)) if isinstance(node.deed, Admission) else k

    def _judge_signature(self, node: Node, act: Node) -> None:
        quorum, voter = self.quorums.get(act.index), node.author
        if quorum is None:
            self.reasons[node.index] = "what it countersigns needs no more signatures, or does not count"
        elif act.index in self._recovery:
            if not node.bit & quorum.signers.get(voter, 0):
                self.reasons[node.index] = "only recovery keys sign that"
        elif not self._may_sign(voter, act, node):
            self.reasons[node.index] = "its author had no vote on it"
        else:
            quorum.signers[voter] = quorum.signers.get(voter, 0) | node.bit
            self._settle(act)

    def _may_sign(self, voter: PeerId, act: Node, signature: Node) -> bool:
        """It must have a vote both where the act stands and where it signs, and not be whom the act removes."""
        return (
            voter != target_of(act)
            and not self._recovered_beside(voter, signature)
            and self.standing(voter, act.past, vote=True) is not None
            and self.standing(voter, signature.past, vote=True) is not None
        )

    def _settle(self, node: Node) -> None:
        """Let an act count as soon as enough have signed it."""
        if node.index not in self.counted and node.index not in self.reasons and self.quorums[node.index].met(ALL):
            self._count(node, vote=True)

    # Fourth rank

    def _judge_sponsored(self, node: Node) -> None:
        sponsor = self.standing(node.author, node.past)
        if sponsor is None:
            self.reasons[node.index] = "its author was no member"
        elif self.removed_beside(node.author, node):
            self.reasons[node.index] = "its author was expelled, by one who did not know of it"
        elif self._distance.get(sponsor.index, 0) >= MOST_SPONSORS:
            self.reasons[node.index] = f"it is more than {MOST_SPONSORS} sponsors away from the founder"
        else:
            self.sponsors[node.index] = sponsor
            self._distance[node.index] = self._distance.get(sponsor.index, 0) + 1
            self._count(node, vote=False)

    def _judge_own(self, node: Node) -> None:
        if self.standing(node.author, node.past) is None:
            self.reasons[node.index] = "its author was no member"
        elif self.removed_beside(node.author, node):
            self.reasons[node.index] = "its author was expelled, by one who did not know of it"
        else:
            self.counted[node.index] = node

    def _count(self, node: Node, *, vote: bool) -> None:
        if isinstance(node.deed, Succession):
            if node.deed.old in self._succeeded:  # of two, the first to have its signatures
                self.reasons[node.index] = "that peer has a successor already"
                return
            self._succeeded.add(node.deed.old)
        self.counted[node.index] = node
        if isinstance(node.deed, Expulsion | Succession):
            self.removals.setdefault(target_of(node), []).append(node)
        if vote and not isinstance(node.deed, Expulsion):
            self.votes.add(node.index)

    def _recovered_beside(self, peer: PeerId, node: Node) -> bool:
        removal = self._recovered.get(peer)
        return removal is not None and not node.bit & removal.past
