"""The example's protocol, but that one peer signs for two blocks wherever it leads, and shows both to everybody."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from coterie.ledger.shared import FullSharedBlock, Proposal, SharedBlock
from coterie.protocols import Peer
from coterie.protocols.consensus import Consensus, PeerChain
from coterie.protocols.consensus.messages import ConsensusProposal

LIAR = 3
"""Its number."""
_spec = importlib.util.spec_from_file_location("honest_chain", Path(__file__).with_name("chain.py"))
assert _spec is not None
assert _spec.loader is not None
honest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(honest)


async def chain(peer: Peer, rounds: int, *, pause: float = 0.2, delay: float = 0.5) -> None:
    """As honest as the example, except at one peer."""
    if peer.members[LIAR] == peer.id:
        PeerChain.agree = _agree  # type: ignore[method-assign]
    await honest.chain(peer, rounds, closing=4, pause=pause, delay=delay)


def _agree(self: PeerChain, peer: Peer, application: Any, delay: float = 1.0) -> Consensus:
    self.consensus = DoubleProposer(
        peer, self.ledger, application, delay=delay, key_of=self.key_of, peer_of=self.peer_of, now=self.now
    )
    return self.consensus


class DoubleProposer(Consensus):
    def _tell(self, what: Any, to: Any) -> None:
        super()._tell(what, to)
        if isinstance(what, Proposal) and what.full.block.proposer == self.peer.identity.id:
            other = msgspec.structs.replace(what, full=self._twin(what.full))
            for peer in self.others():
                self.peer.send(peer, ConsensusProposal(other))

    def _twin(self, full: FullSharedBlock) -> FullSharedBlock:
        """Another block for the same height."""
        block = full.block
        same = {name: getattr(block, name) for name in block.__struct_fields__}
        for name in ("root", "count", "proposer", "signature"):
            del same[name]
        other = SharedBlock.make(self.peer.identity, **{**same, "time": block.time + 1}, records=full.records)
        return FullSharedBlock(other, full.records)
