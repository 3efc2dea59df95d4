"""The shared chains of simulated peers: in memory, kept through crashes, and saved in checkpoints.

All peers' charters are one, signed by the first peer; what one has checked no other checks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coterie.identity import Identity, PeerId
from coterie.identity.vrf import VrfKey
from coterie.ledger.shared import Batch, Charter, SharedMemory, Signatures
from coterie.protocols.consensus import ChainTerms, PeerChain, create
from coterie.protocols.peer import Store


class SimulatedChains:
    """``identities``: of all peers, by their names in the run; ``now``: virtual ms."""

    def __init__(self, genesis: bytes, identities: Mapping[PeerId, Identity], now: Callable[[], int]) -> None:
        self._genesis, self._identities, self._now = genesis, identities, now
        self._names = {identity.id: name for name, identity in identities.items()}
        self._charter: Charter | None = None
        self._known = Signatures()

    def open(self, terms: ChainTerms, kept: SharedMemory | None, store: Store) -> tuple[SharedMemory, PeerChain]:
        """A peer's chain: the one it has ``kept``, or a new one. Raises LedgerError."""
        if self._charter is None:
            self._charter = self._founded(terms)
        terms.require(self._charter)
        if kept is None:
            kept = SharedMemory(self._charter, self._known)
            create(store, self._genesis)
        keys = {name: identity.id for name, identity in self._identities.items()}
        return kept, PeerChain(kept, keys.get, self._names.get, self._now)

    def save(self, ledger: SharedMemory) -> list[bytes]:
        """The final blocks, in order, with what makes them final."""
        found: list[bytes] = []
        for epoch in range(ledger.chain.state.epoch + 1):
            height = 0
            while (batch := ledger.blocks(epoch, height)) is not None:
                found.append(batch.encode())
                height = batch.blocks[-1].block.height
        return [self._charter.encode() if self._charter else b"", *found]

    def restore(self, saved: Sequence[bytes]) -> SharedMemory:
        """Read back what ``save`` gave; all of it is verified. Raises LedgerError."""
        start, *batches = saved
        self._charter = self._charter or Charter.decode(start)
        ledger = SharedMemory(self._charter, self._known)
        for batch in batches:
            ledger.receive(Batch.decode(batch))
        return ledger

    def _founded(self, terms: ChainTerms) -> Charter:
        weights = terms.weights or dict.fromkeys(self._identities, 1)
        who = {name: self._identities[name] for name in weights}
        voters = {one.id: (VrfKey.of(one, self._genesis).public, weights[name]) for name, one in who.items()}
        return terms.charter(next(iter(self._identities.values())), self._genesis, voters)
