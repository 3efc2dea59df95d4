"""One machine on a bench: votes, blocks and certificates are put before it by hand."""

from __future__ import annotations

import hashlib

from consensus_world import GENESIS, identity, voter

from coterie.identity.vrf import VrfKey
from coterie.ledger.shared import (
    Certificate,
    Charter,
    FullSharedBlock,
    Proposal,
    QuorumRule,
    SharedBlock,
    Signatures,
    Vote,
    Voters,
    closing_alpha,
)
from coterie.ledger.shared.votes import NO_BLOCK
from coterie.protocols.consensus import Simplex, steps

DELAY = 1.0


class Bench:
    """Voters ``p0`` ... with these weights, and the machine of one of them."""

    kind = Simplex

    def __init__(self, weights, own="p0", rule=None, beacon=b"b") -> None:
        self.names = [f"p{number}" for number in range(len(weights))]
        voters = Voters.of([voter(name, weight) for name, weight in zip(self.names, weights, strict=True)])
        charter = Charter.make(
            identity("founder"), GENESIS, voters, hashlib.sha256(beacon).digest(), rule or QuorumRule()
        )
        self.state, self.own = charter.checkpoint, own
        self.names_of = {identity(name).id: name for name in self.names}
        self.machine = self.fresh()
        self.did = self.machine.start()

    def fresh(self) -> Simplex:
        return self.kind(self.state, identity(self.own), Signatures(), DELAY)

    def step(self, event):
        self.did = self.machine.step(event)
        return self.did

    def of(self, kind, did=None):
        return [action for action in (self.did if did is None else did) if isinstance(action, kind)]

    def told(self, kind=Vote, did=None):
        return [action.what for action in self.of(steps.Tell, did) if isinstance(action.what, kind)]

    def leader(self, height) -> str:
        return self.names_of[self.state.leader(height)]

    def block(self, height, parent=None, time=0, closes=False, closed=b"") -> FullSharedBlock:
        """The leader's block at a height, after another full block, or after the anchor."""
        who = identity(self.leader(height))
        block = SharedBlock.make(
            who,
            genesis=GENESIS,
            epoch=self.state.epoch,
            height=height,
            parent_height=parent.block.height if parent else 0,
            parent=parent.block.id if parent else self.state.anchor,
            closes=closes,
            proof=VrfKey.of(who, GENESIS).prove(closing_alpha(self.state.beacon, height)) if closes else b"",
            closed=closed,
            time=time,
        )
        return FullSharedBlock(block, ())

    def vote(self, name, kind, height, block=NO_BLOCK, epoch=None, genesis=GENESIS) -> Vote:
        epoch = self.state.epoch if epoch is None else epoch
        return Vote.make(identity(name), genesis, epoch, height, kind, block)

    def votes(self, names, kind, height, block=NO_BLOCK):
        """Let these votes come; what the machine did."""
        did = []
        for name in names:
            did += self.machine.step(steps.Voted(self.vote(name, kind, height, block)))
        self.did = did
        return did

    def certificate(self, names, kind, height, block=NO_BLOCK) -> Certificate:
        """Of these voters, a quorum or not."""
        votes = [self.vote(name, kind, height, block) for name in names]
        places = sorted((self.state.voters.index(vote.voter), vote.signature) for vote in votes)
        return Certificate(self.state.epoch, height, kind, block, tuple(places))

    def propose(self, full, notarised=None, dummies=()):
        """Let a proposal come, and the application accept it."""
        did = self.step(steps.Proposed(Proposal(full, notarised, tuple(dummies))))
        if self.of(steps.Judge):
            did = did + self.step(steps.Judged(full.block.height, full.block.id))
        self.did = did
        return did

    def fire(self, kind, stage=0):
        return self.step(steps.Fired(kind, self.machine.height, stage))


def bench_led_by_others(weights, heights=(1,), **how) -> Bench:
    """A bench on which ``p0``, whose machine it is, leads none of these heights."""
    for number in range(1000):
        bench = Bench(weights, beacon=b"%d" % number, **how)
        if all(bench.leader(height) != bench.own for height in heights):
            return bench
    raise AssertionError("it leads everywhere")
