"""What hostile voters do. They sign with their own keys and say what suits them to each."""

from __future__ import annotations

import msgspec

from coterie.ledger.shared import FullSharedBlock, Proposal, SharedBlock, Vote
from coterie.ledger.shared.votes import NO_BLOCK
from coterie.network import Message
from coterie.protocols.consensus import Consensus
from coterie.protocols.consensus.messages import ConsensusProposal, ConsensusVote
from coterie.protocols.consensus.tally import Tally


class Liar(Consensus):
    """Says one thing to the voters in one half, another to the others. The halves change with the height."""

    def half(self, what) -> list[str]:
        height = what.full.block.height if isinstance(what, Proposal) else what.height
        return [peer for number, peer in enumerate(sorted(self.others())) if (number + height) % 2]

    def say(self, one: Message, other: Message, half: list[str]) -> None:
        for peer in self.others():
            self.peer.send(peer, one if peer in half else other)

    def vote(self, like: Vote, kind, block=NO_BLOCK) -> Vote:
        return Vote.make(self.peer.identity, self.machine.state.genesis, like.epoch, like.height, kind, block)

    def twin(self, full: FullSharedBlock) -> FullSharedBlock:
        """Another block for the same height."""
        block = full.block
        fields = {name: getattr(block, name) for name in block.__struct_fields__}
        for name in ("root", "count", "proposer", "signature"):
            del fields[name]
        other = SharedBlock.make(self.peer.identity, **{**fields, "time": block.time + 1}, records=full.records)
        return FullSharedBlock(other, full.records)


class Splitter(Liar):
    """As a leader: one block to one half, another to the other, and its vote for each; otherwise honest."""

    def _tell(self, what, to) -> None:
        tally = self.machine.tallies.get(self.machine.height)
        if isinstance(what, Proposal):
            self.other = self.twin(what.full)
            two = msgspec.structs.replace(what, full=self.other)
            self.say(ConsensusProposal(what), ConsensusProposal(two), self.half(what))
        elif isinstance(what, Vote) and what.kind == "block" and tally is not None and tally.own == what.hash:
            two = self.vote(what, "block", self.other.block.id)
            self.say(ConsensusVote(what), ConsensusVote(two), self.half(what))
        else:
            super()._tell(what, to)


class DoubleVoter(Splitter):
    """That, and it closes and skips every height at once: FINAL to one half, DUMMY to the other."""

    def _tell(self, what, to) -> None:
        if isinstance(what, Vote) and what.kind != "block":
            hashes = [c.hash for c in self.machine.tallies.get(what.height, _none).certificates.values()]
            block = next((name for name in hashes if name != NO_BLOCK), bytes([1]) * 32)
            one, two = self.vote(what, "final", block), self.vote(what, "dummy")
            self.say(ConsensusVote(one), ConsensusVote(two), self.half(what))
        else:
            super()._tell(what, to)


class Shower(DoubleVoter):
    """As a leader it shows both blocks to everybody, in another order to each half, and votes for both."""

    def _tell(self, what, to) -> None:
        tally = self.machine.tallies.get(self.machine.height)
        if isinstance(what, Proposal):
            self.other = self.twin(what.full)
            one, two = ConsensusProposal(what), ConsensusProposal(msgspec.structs.replace(what, full=self.other))
            self.say(one, two, self.half(what))
            self.say(two, one, self.half(what))
        elif isinstance(what, Vote) and what.kind != "dummy" and tally is not None and tally.own == what.hash:
            for kind in ("block", "final"):
                one, two = self.vote(what, kind, what.hash), self.vote(what, kind, self.other.block.id)
                self.say(ConsensusVote(one), ConsensusVote(two), self.half(what))
        else:
            super()._tell(what, to)


class SilentLeader(Consensus):
    """Votes, and never proposes."""

    def _tell(self, what, to) -> None:
        if not isinstance(what, Proposal):
            super()._tell(what, to)


class Picky(Liar):
    """Votes, but tells its votes only to one half: some see a quorum and others do not."""

    def _tell(self, what, to) -> None:
        if isinstance(what, Vote):
            for peer in self.half(what):
                self.peer.send(peer, ConsensusVote(what))
        else:
            super()._tell(what, to)


_none = Tally(0)
