"""Voters that break one rule each. The tests must notice every one of them."""

from __future__ import annotations

from coterie.protocols.consensus import Consensus, Simplex


class Broken6(Simplex):
    """Votes for every proposal that it is shown at its height."""

    def _may(self, kind, tally, block) -> bool:
        return kind == "block" or super()._may(kind, tally, block)

    def _on_proposed(self, proposal) -> None:
        super()._on_proposed(proposal)
        full, tally = proposal.full, self.tallies.get(proposal.full.block.height)
        if tally is not None and tally.height == self.height and full.block.id not in tally.blocks:
            tally.blocks[full.block.id] = full
            self._vote("block", tally, full.block.id)


class Broken8(Simplex):
    """Says FINAL with its block vote, without waiting for the quorum."""

    def _vote(self, kind, tally, block) -> None:
        super()._vote(kind, tally, block)
        if kind == "block" and not self.over and tally.height > self.final:
            super()._vote("final", tally, block)


class Broken10(Simplex):
    """Says FINAL where it has said DUMMY, and DUMMY where it has said FINAL."""

    def _may(self, kind, tally, block) -> bool:
        return kind not in tally.mine and (kind != "block" or tally.height == self.height)


def voter_of(machine: type[Simplex]) -> type[Consensus]:
    """A voter with this machine."""
    return type(f"Voter{machine.__name__}", (Consensus,), {"machine_type": machine})
