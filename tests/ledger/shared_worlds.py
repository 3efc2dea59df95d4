"""Voters with fixed keys, and a writer that makes the shared chain's blocks and certificates as their peers would."""

import hashlib

from ledger_worlds import ANN, GENESIS

from coterie.identity import Identity, VrfKey
from coterie.ledger import Record
from coterie.ledger.shared import (
    Certificate,
    Charter,
    Finality,
    FullSharedBlock,
    QuorumRule,
    SharedBlock,
    SharedChain,
    Signatures,
    Vote,
    Voter,
    Voters,
    closing_alpha,
)


def identity(name):
    return Identity.from_seed(hashlib.sha256(f"voter {name}".encode()).digest())


PEERS = [identity(number) for number in range(7)]
BY_ID = {peer.id: peer for peer in PEERS}
VRF = {peer.id: VrfKey.of(peer, GENESIS) for peer in PEERS}
BEACON = hashlib.sha256(b"the first beacon").digest()


def voter(peer, weight=1):
    return Voter(peer.id, VRF[peer.id].public, weight)


def charter(weights=(1, 1, 1, 1), *, rule=None, lock_epochs=3, founder=ANN, beacon=BEACON):
    voters = Voters.of(voter(peer, weight) for peer, weight in zip(PEERS, weights, strict=False))
    return Charter.make(founder, GENESIS, voters, beacon, rule, lock_epochs)


def certified(state, height, kind, block, signers=None):
    """A certificate of ``signers``, or of all voters."""
    names = signers or [member.key for member in state.voters.members]
    votes = [Vote.make(BY_ID[name], state.genesis, state.epoch, height, kind, block) for name in names]
    return Certificate.of(votes, state.voters, QuorumRule("majority", 1) if signers else state.rule)


class Writer:
    """Makes blocks after the last one, final or not; ``chain`` is what is final."""

    def __init__(self, start):
        self.chain = SharedChain.begin(start)
        self.known = Signatures()
        self.height, self.head, self.closed = 0, start.anchor, b""
        self.time = 1000

    @property
    def state(self):
        return self.chain.state

    def block(self, *records, closes=False, skip=0, proposer=None, vrf=None, **changed):
        """The leader's next block, ``skip`` heights left out."""
        height = self.height + 1 + skip
        leader = proposer or BY_ID[self.state.leader(height)]
        proof = (vrf or VRF[leader.id]).prove(closing_alpha(self.state.beacon, height)) if closes else b""
        self.time += 1
        fields = {
            "genesis": self.state.genesis,
            "epoch": self.state.epoch,
            "height": height,
            "parent_height": self.height,
            "parent": self.head,
            "records": [record.encode() for record in records],
            "closes": closes,
            "proof": proof,
            "closed": self.closed,
            "time": self.time,
        }
        block = SharedBlock.make(leader, **{**fields, **changed})
        self.height, self.head = block.height, block.id
        self.closed = block.id if closes else self.closed
        return FullSharedBlock.of(block, records)

    def finality(self, last, *headers):
        """Why ``last`` is final: a certificate for it, or for the last of the blocks after it."""
        certain = headers[-1] if headers else last
        tail = [header.block for header in headers if header.block.closed]
        blocks = (*(header.block for header in headers if not header.block.closed), *tail[-1:])
        return Finality(blocks, certified(self.state, certain.block.height, "final", certain.block.id))

    def finish(self, *blocks, tail=()):
        """Have them final here; returns them with their finality."""
        finality = self.finality(blocks[-1], *tail)
        self.chain, _ = self.chain.extend(blocks, finality, self.known)
        self.height, self.head, self.closed = self.chain.height, self.chain.head, b""
        return blocks, finality

    def write(self, *records, closes=False, skip=0):
        """A block of its own, final."""
        return self.finish(self.block(*records, closes=closes, skip=skip))

    def close(self, *records):
        return self.write(*records, closes=True)


def note(number, size=0, peer=ANN):
    fill = hashlib.shake_256(str(number).encode()).digest(size)
    return Record.make(peer, "note", {"n": number, "fill": fill}, time=number)


def written(start, epochs=3, size=0):
    """A chain with all that one has: batches of final blocks with their finality."""
    writer, batches, number = Writer(start), [], 0
    for epoch in range(epochs):
        batches.append(writer.write(note(number, size), note(number + 1, size)))
        batches.append(writer.write(skip=2))
        first, second = writer.block(note(number + 2, size)), writer.block(note(number + 3, size), skip=1)
        batches.append(writer.finish(first, second))
        closing = writer.block(note(number + 4, size), closes=True)
        tail = (writer.block(),) if epoch % 2 else ()
        batches.append(writer.finish(closing, tail=tail))
        number += 5
    return writer, batches
