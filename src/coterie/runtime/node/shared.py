"""A node's shared chain: the file that it lies in, ``shared.sqlite``, and what this peer has said in it before.

Whether a peer may begin an empty log of its votes, or has lost one, is told by its own ledger, which others keep for
it: before it votes for the first time it records there that it takes part. So a home that was put together anew around
an old key, without its log, keeps silent until it knows that nothing it may have signed matters any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coterie.errors import LedgerError
from coterie.identity import PeerId
from coterie.ledger import Record
from coterie.ledger.shared import Checkpoint, SharedStore
from coterie.protocols import Peer
from coterie.protocols.consensus import ChainTerms, PeerChain, create, log
from coterie.protocols.consensus.messages import (
    ConsensusAhead,
    ConsensusCertificate,
    ConsensusProposal,
    ConsensusPull,
    ConsensusVote,
)
from coterie.runtime.node.chain_start import ChainStart, CheckpointAsk, CheckpointText
from coterie.runtime.node.roster import Roster, now_ms

FILE = "shared.sqlite"
KIND = "shared chain"
_log = logging.getLogger("coterie.chain")


class NodeChain:
    """The shared chain of one node: ``open`` it when the protocol asks, ``close`` it with the node.

    ``say``: told what is waited for, and which members have not answered.
    """

    def __init__(self, folder: Path, roster: Roster, peer: Peer, say: Callable[[str, Sequence[PeerId]], Any]) -> None:
        self._folder, self._roster, self._peer = folder, roster, peer
        self._start = ChainStart(folder, roster, peer, say)
        self._store: SharedStore | None = None
        self._chain: PeerChain | None = None
        peer.handle(CheckpointAsk, self._on_checkpoint_ask)
        for kind in (ConsensusVote, ConsensusProposal, ConsensusCertificate, ConsensusAhead, ConsensusPull):
            peer.handle(kind, lambda sender, message: None)  # others may have begun already; consensus takes these over

    async def open(self, terms: ChainTerms) -> PeerChain:
        """The chain, once there is a charter. Raises LedgerError, and OutputError where the disk says no."""
        if self._chain is None:
            start = await self._start.get(terms)
            founding = self._roster.store.record(start.genesis)
            self._store = store = SharedStore(self._folder / FILE, start, founding)
            if store.damage is not None:
                _log.warning("%s", store.damage)
            self._begin_log(store.chain.state)
            self._chain = PeerChain(store, self._known, self._known, now_ms)
        return self._chain

    @property
    def status(self) -> dict[str, Any] | None:
        """For the node's owner: where the chain stands; None while there is none.

        ``silent``: whom the height waits for, once its time is over.
        """
        chain, store = self._chain, self._store
        if chain is None or store is None:
            return None
        state, consensus = store.chain.state, chain.consensus
        height = consensus.stands[1] if consensus is not None else 0
        stuck = consensus.machine.missing() if consensus is not None and consensus.machine.fired else []
        return {
            "start": store.start.id.hex(),
            "epoch": state.epoch,
            "final": store.chain.height,
            "height": height,
            "leader": state.leader(height) if height else None,
            "voters": [voter.key for voter in state.voters.members],
            "silent": [state.voters.members[place].key for place in stuck],
        }

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def pin(self) -> tuple[int, bytes] | None:
        """Epoch and id of the present checkpoint, for a newcomer; None while there is no chain."""
        if self._store is None:
            return None
        state = self._store.chain.state
        return state.epoch, state.id

    def _on_checkpoint_ask(self, sender: PeerId, question: CheckpointAsk) -> CheckpointText:
        found: Checkpoint | None = None
        try:
            found = None if self._store is None else self._store.checkpoint(question.epoch)
        except LedgerError as error:
            _log.error("%s", error)
        return CheckpointText(b"" if found is None else found.encode())

    # Who is who, and what was said before

    def _known(self, peer: PeerId) -> PeerId | None:
        return peer if self._roster.membership_has(peer) else None

    def _begin_log(self, state: Checkpoint) -> None:
        """Begin the log of this peer's votes, unless it has taken part before."""
        content, own = {"genesis": state.genesis.hex()}, self._peer
        recorded = any(record.kind == KIND and record.content == content for record in self._own_records())
        if not recorded and log.read(own.store, state.genesis) is None:
            create(own.store, state.genesis, state.epoch)
        if not recorded:
            own.ledger.append(KIND, content)

    def _own_records(self) -> list[Record]:
        store, found, height = self._roster.store, list[Record](), 0
        while blocks := store.blocks(self._peer.id, height):
            height += len(blocks)
            found += [Record.decode(data) for full in blocks for data in full.records]
        return found
