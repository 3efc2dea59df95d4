"""Where a peer stands in one epoch: what it knows, and what follows from that. Nothing happens here."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.identity import Identity
from coterie.identity import PeerId as Key
from coterie.ledger.shared import (
    Certificate,
    Checkpoint,
    Finality,
    FullSharedBlock,
    Proposal,
    SharedBlock,
    Signatures,
    check_block,
)
from coterie.ledger.shared.blocks import MOST_DUMMIES
from coterie.protocols.consensus.application import View
from coterie.protocols.consensus.tally import Tally


class Standing:
    """The state of ``Simplex``.

    ``state``: the epoch's; ``identity``: who votes; ``delay``: D, seconds within which a message should arrive. With
    a smaller D a silent leader costs less, and a slow network more dummies: safety does not depend on it.
    """

    def __init__(self, state: Checkpoint, identity: Identity, known: Signatures, delay: float) -> None:
        self.state, self.identity, self.known, self.delay = state, identity, known, delay
        self.place = state.voters.index(identity.id)
        self.votes = self.place is not None
        """Whether this peer votes: not where it is no voter, and not where it may have forgotten what it said."""
        self.height, self.final, self.head = 0, 0, state.anchor
        self.certified: Certificate | None = None
        """Of the last final block; None while that is the anchor."""
        self.over = False
        """The block that closes the epoch is final."""
        self.unlogged = False
        """The log could not be written: what this peer signed last must not leave."""
        self.unremembered = 0
        """Up to this height the log does not say what this peer has signed."""
        self.tallies: dict[int, Tally] = {}
        self.shown: dict[int, int] = {}
        """The height that each voter has shown itself to be at, by its place."""
        self.dummies = 0
        """Heights since the last finality that have no block, or that this peer had given up before they had one.

        Without the latter a network in which blocks always come just after the timers would keep these short for ever.
        """
        self.missed: set[Key] = set()
        """Leaders whose last height in this epoch ended without a block, as this peer saw it."""
        self.begun = self.fired = False
        """The timer of this height runs; it has fired."""

    def is_passed_over(self, leader: Key) -> bool:
        """Whether this leader is given D only, as it was silent the last time it led.

        Leaders are drawn, so that a dead one may lead several heights in a row, and each would double the wait. As long
        as all others are enough to decide: where they are not, everybody is waited for. Only a timer depends on it.
        """
        voters = self.state.voters
        others = [place for place, voter in enumerate(voters.members) if voter.key not in self.missed]
        return leader in self.missed and self.state.rule.reached(voters, others)

    def lacking(self) -> list[bytes]:
        """Blocks that are not here and are certified, or built upon, or have more than a third of the votes.

        The last ones show who leads two ways.
        """
        wanted: dict[bytes, None] = {}
        for height in sorted(self.tallies):
            tally = self.tallies[height]
            wanted.update((c.hash, None) for c in tally.certificates.values() if c.kind != "dummy")
            wanted.update((name, None) for name in tally.votes_for(self.state))
            for full in tally.blocks.values():
                if full.block.parent_height > self.final:
                    wanted[full.block.parent] = None
        here = {name for tally in self.tallies.values() for name in tally.blocks}
        return [name for name in wanted if name not in here]

    def gap(self) -> int:
        """The lowest height after the last final block of which a certificate is lacking.

        That is one of which there is none here, or no dummy certificate where the leader's proposal needs that.
        """
        height, tally = self.final + 1, self.tallies.get(self.height)
        needed = self.height if tally is None or tally.proposal is None else tally.proposal.full.block.parent_height + 1
        while height in self.tallies and (held := self.tallies[height].certificates):
            if needed <= height < self.height and "dummy" not in held:
                break
            height += 1
        return height

    def silent(self) -> list[int]:
        """Places of the voters that have not been heard at this height."""
        others = (place for place in range(len(self.state.voters)) if place != self.place)
        return [place for place in others if self.shown.get(place, 0) < self.height]

    def missing(self) -> list[int]:
        """Places of the voters that a stuck peer waits for: those that have not agreed to give up this height.

        Who was heard here before the timer fired may be gone since.
        """
        told = self.tallies[self.height].votes["dummy"] if self.fired and self.height in self.tallies else None
        if told is None:
            return self.silent()
        return [place for place in range(len(self.state.voters)) if place != self.place and place not in told]

    def parent(self) -> tuple[int, bytes] | None:
        """(height, id) of the highest block that may be followed here; None where a certificate is lacking."""
        for height in range(self.height - 1, self.final, -1):
            held = self.tallies[height].certificates if height in self.tallies else {}
            certificate = held.get("block") or held.get("final")
            if certificate is not None:
                return height, certificate.hash
            if "dummy" not in held:
                return None
        return self.final, self.head

    def is_open(self) -> bool:
        """Whether something has been notarised, or may have been, and is not final."""
        parent = self.parent()
        return parent is None or parent[0] > self.final

    def chain(self, height: int, name: bytes) -> list[FullSharedBlock] | None:
        """The blocks from the last final one, not included, to this one; None where one is not here."""
        chain: list[FullSharedBlock] = []
        while height > self.final:
            full = self.tallies[height].blocks.get(name) if height in self.tallies else None
            if full is None:
                return None
            chain.append(full)
            height, name = full.block.parent_height, full.block.parent
        return chain[::-1] if (height, name) == (self.final, self.head) else None

    def follows(self, block: SharedBlock) -> list[FullSharedBlock] | None:
        """Rule 5, as voter: what the block follows since the last final one.

        None where something lacks: a dummy certificate, the parent's, a block; and where it would undo what is final.
        """
        for height in range(max(block.parent_height, self.final) + 1, block.height):
            if height not in self.tallies or "dummy" not in self.tallies[height].certificates:
                return None
        if block.parent_height > self.final:
            held = self.at(block.parent_height).certificates
            if all(c.hash != block.parent for c in held.values() if c.kind != "dummy"):
                return None
        return self.chain(block.parent_height, block.parent)

    def highest_final(self) -> Certificate | None:
        """The final certificate of the highest block that is not final here yet."""
        heights = [height for height in self.tallies if "final" in self.tallies[height].certificates]
        return self.tallies[max(heights)].certificates["final"] if heights else None

    def finality(self, certificate: Certificate) -> tuple[tuple[FullSharedBlock, ...], Finality] | None:
        """Rules 9 and 13: what a final certificate makes final, up to the block that closes the epoch.

        None where a block is not here.
        """
        chain = self.chain(certificate.height, certificate.hash)
        if chain is None:
            return None
        count = next((number for number, full in enumerate(chain, 1) if full.block.closes), len(chain))
        return tuple(chain[:count]), Finality(tuple(full.block for full in chain[count:][-1:]), certificate)

    def view(self, chain: Sequence[FullSharedBlock]) -> View:
        """What the application is to see."""
        return View(self.state, self.height, tuple(check_block(self.state, full, self.known) for full in chain))

    def leads(self, height: int) -> bool:
        """Rule 3: whether this peer proposes at ``height``."""
        return self.state.leader(height) == self.identity.id

    def proposal(self, full: FullSharedBlock) -> Proposal:
        """Rule 5, as leader: the block with its parent's certificate and the dummies since; ``follows`` knows them."""
        block = full.block
        if block.parent_height == self.final:
            parent = self.certified
        else:
            held = self.at(block.parent_height).certificates
            parent = held.get("block") or held["final"]
        between = range(block.parent_height + 1, block.height)[-MOST_DUMMIES:]
        return Proposal(full, parent, tuple(self.at(height).certificates["dummy"] for height in between))

    def at(self, height: int) -> Tally:
        """What is known of a height."""
        if height not in self.tallies:
            self.tallies[height] = Tally(height)
        return self.tallies[height]


def closed_by(chain: Sequence[FullSharedBlock]) -> bytes:
    """Rule 13: id of the block in ``chain`` that closes the epoch, as those after it name it; empty for none."""
    return next((full.block.id for full in chain if full.block.closes), b"")
