"""What is known of one height: votes, certificates, blocks, and what this peer has said itself.

A vote is counted as it comes and its signature checked only where it helps to a quorum or proves something: each voter
sends its votes itself, so a forged one could only stand in the place of the forger's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.errors import LedgerError
from coterie.ledger.shared import (
    Certificate,
    Checkpoint,
    Evidence,
    FullSharedBlock,
    Proposal,
    SharedBlock,
    Signatures,
    Vote,
    VoteKind,
)

Thing = tuple[VoteKind, bytes]
_MOST_SPOILT = 2


@dataclass
class Tally:
    """One height of an epoch. At most three votes of each voter are kept, and two blocks of the leader."""

    height: int
    votes: dict[VoteKind, dict[int, Vote]] = field(default_factory=lambda: {"block": {}, "dummy": {}, "final": {}})
    """By kind and the voter's place: the first one of each."""
    weight: dict[Thing, tuple[int, int]] = field(default_factory=dict)
    """(stake, voters) behind a thing, signatures not looked at."""
    certificates: dict[VoteKind, Certificate] = field(default_factory=dict)
    blocks: dict[bytes, FullSharedBlock] = field(default_factory=dict)
    """By id: the leader's first proposal, and what was asked for because it is certified."""
    proposal: Proposal | None = None
    """The leader's first."""
    spoilt: int = 0
    """Blocks of the leader that were no good."""
    considered: bool = False
    """The proposal has been put to the application, or refused."""
    drafted: bool = False
    """The application has been asked for this peer's own block."""
    mine: dict[VoteKind, Vote] = field(default_factory=dict)
    """What this peer has voted here."""
    own: bytes | None = None
    """The block that this peer has proposed here."""
    accused: list[int] = field(default_factory=list)

    def add(self, place: int, vote: Vote, state: Checkpoint, known: Signatures) -> Evidence | None:
        """Count a vote; evidence where it contradicts an earlier one of the same voter (rule 11).

        Raises LedgerError for a vote that contradicts an earlier one and is not signed.
        """
        earlier = self.votes[vote.kind].get(place)
        if earlier is not None and place in self.accused:
            return None  # no more work for a liar
        if earlier is None:
            self.votes[vote.kind][place] = vote
            self._weigh(place, vote, state, 1)
        elif earlier.hash != vote.hash:
            return self._contradiction(place, earlier, vote, state, known)
        if vote.kind != "block":
            other = self.votes["dummy" if vote.kind == "final" else "final"].get(place)
            if other is not None and place not in self.accused:
                return self._contradiction(place, other, vote, state, known)
        return None

    def knows(self, block: SharedBlock, state: Checkpoint) -> bool:
        """Whether a proposal of this block tells nothing new: it has come, or its leader is known for a liar."""
        if self.proposal is None:
            return self.spoilt >= _MOST_SPOILT
        return self.proposal.full.block.id == block.id or state.voters.index(block.proposer) in self.accused

    def certify(
        self, thing: Thing, state: Checkpoint, known: Signatures, own: int | None
    ) -> tuple[Certificate | None, list[int]]:
        """A certificate for a thing as soon as there is a quorum of good votes, and who sent bad ones.

        ``own``: this peer's place, whose votes need no check.
        """
        kind, name = thing
        liars: list[int] = []
        while state.rule.enough(state.voters, *self.weight.get(thing, (0, 0))):
            votes = [vote for vote in self.votes[kind].values() if vote.hash == name]
            certificate = Certificate.of(votes, state.voters, state.rule)
            if certificate is None:
                break
            others = (place for place, _ in certificate.votes if place != own)
            bad = [place for place in others if not self._good(place, kind, state, known)]
            if not bad:
                return certificate, liars
            for place in bad:
                self._weigh(place, self.votes[kind].pop(place), state, -1)
            liars += bad
        return None, liars

    def votes_for(self, state: Checkpoint) -> list[bytes]:
        """Blocks that more than a third has voted for."""
        return [name for kind, name in self.weight if kind == "block" and self.share(("block", name), state)]

    def share(self, thing: Thing, state: Checkpoint) -> bool:
        """Whether more than a third is behind a thing: somebody honest is, signatures not looked at."""
        stake, voters = self.weight.get(thing, (0, 0))
        if state.rule.kind == "stake":
            return 3 * stake > state.voters.total
        return 3 * voters > len(state.voters)

    def _good(self, place: int, kind: VoteKind, state: Checkpoint, known: Signatures) -> bool:
        try:
            self.votes[kind][place].check(state.genesis, known)
        except LedgerError:
            return False
        return True

    def _weigh(self, place: int, vote: Vote, state: Checkpoint, sign: int) -> None:
        thing = (vote.kind, vote.hash)
        stake, voters = self.weight.get(thing, (0, 0))
        self.weight[thing] = stake + sign * state.voters.members[place].weight, voters + sign

    def _contradiction(
        self, place: int, earlier: Vote, vote: Vote, state: Checkpoint, known: Signatures
    ) -> Evidence | None:
        vote.check(state.genesis, known)
        if not self._good(place, earlier.kind, state, known):
            self._weigh(place, self.votes[earlier.kind].pop(place), state, -1)
            if earlier.kind == vote.kind:
                self.votes[vote.kind][place] = vote
                self._weigh(place, vote, state, 1)
            return None
        self.accused.append(place)
        return Evidence.of(earlier, vote)
