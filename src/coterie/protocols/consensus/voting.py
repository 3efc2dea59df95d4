"""What a voter signs and counts: rules 2, 6, 8, 10 and 11. Every vote of a peer is made here."""

from __future__ import annotations

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger.shared import Certificate, Checkpoint, Proposal, Signatures, Vote, VoteKind
from coterie.protocols.consensus import steps
from coterie.protocols.consensus.standing import Standing
from coterie.protocols.consensus.tally import Tally


class Voting(Standing):
    """A base of ``Simplex``."""

    def __init__(self, state: Checkpoint, identity: Identity, known: Signatures, delay: float) -> None:
        super().__init__(state, identity, known, delay)
        self._late: dict[int, int] = {}
        """The height of the last vote of each voter for what is final already."""
        self._out: list[steps.Action] = []

    def _hold(self, certificate: Certificate) -> None:
        """Take in a checked certificate."""
        raise NotImplementedError

    def may_tell(self, what: Vote | Proposal | Certificate) -> bool:
        """Whether no vote of this peer leaves with it that is not in the log (rule 10)."""
        if not isinstance(what, Certificate):
            return self.votes
        return not self.unlogged or what.height <= self.final or all(place != self.place for place, _ in what.votes)

    def _may(self, kind: VoteKind, tally: Tally, block: bytes) -> bool:
        """What this peer may sign: rules 6, 8 and 10."""
        if kind in tally.mine:
            return False
        if kind == "final":
            return "dummy" not in tally.mine
        return tally.height == self.height and "final" not in tally.mine

    def _vote(self, kind: VoteKind, tally: Tally, block: bytes) -> None:
        """Sign, log, and only then send (rule 10)."""
        if not self.votes or self.place is None or not self._may(kind, tally, block):
            return
        vote = Vote.make(self.identity, self.state.genesis, self.state.epoch, tally.height, kind, block)
        tally.mine[kind] = vote
        self._out += [steps.Log(), steps.Tell(vote)]
        tally.add(self.place, vote, self.state, self.known)
        self._count(tally, kind, block)

    def _add(self, tally: Tally, place: int, vote: Vote) -> None:
        evidence = tally.add(place, vote, self.state, self.known)
        if evidence is not None:
            self._out.append(steps.Accuse(evidence))
        unknown = vote.kind == "block" and tally.proposal is not None and vote.hash not in tally.blocks
        if unknown and tally.share(("block", vote.hash), self.state):
            self._out.append(steps.Pull(urgent=True))  # the leader has shown others another block

    def _count(self, tally: Tally, kind: VoteKind, block: bytes) -> None:
        """Rule 2: is it a quorum?"""
        if kind in tally.certificates or tally.height <= self.final:
            return
        certificate, liars = tally.certify((kind, block), self.state, self.known, self.place)
        for place in liars:
            voter = self.state.voters.members[place].key
            error = LedgerError("a vote is not signed by its voter", where=f"{kind} vote of {voter[:12]}")
            self._out.append(steps.Refuse(place, error))
        if certificate is not None:
            self._hold(certificate)
