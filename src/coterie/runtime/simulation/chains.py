"""Shared chains of simulated peers: in memory, and as safe from a crash as a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from coterie.identity import Identity
from coterie.identity import PeerId as Key
from coterie.identity.vrf import VrfKey
from coterie.ledger.shared import Batch, Charter, QuorumRule, SharedMemory, Signatures, Voter, Voters
from coterie.protocols import PeerId

_BEACON = b"coterie simulated beacon"


@dataclass
class Roster:
    """Who is who in a run, and what its chains begin with: all peers vote, each with one vote."""

    federation: bytes
    identities: Mapping[PeerId, Identity]
    known: Signatures = field(default_factory=Signatures)
    _charters: dict[bytes, Charter] = field(default_factory=dict)
    _names: dict[Key, PeerId] = field(init=False)

    def __post_init__(self) -> None:
        self._names = {identity.id: peer for peer, identity in self.identities.items()}

    def peer_of(self, key: Key) -> PeerId | None:
        return self._names.get(key)

    def charter(self, genesis: bytes, rule: QuorumRule) -> Charter:
        """The charter of a chain, by the first peer."""
        if genesis not in self._charters:
            members = list(self.identities.values())
            voters = Voters.of(Voter(who.id, VrfKey.of(who).public, 1) for who in members)
            beacon = hashlib.sha256(_BEACON + genesis).digest()
            self._charters[genesis] = Charter.make(members[0], genesis, voters, beacon, rule)
        return self._charters[genesis]


class SimulatedChains:
    """Implements ``Chains`` for one peer."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._open: dict[bytes, SharedMemory] = {}

    @property
    def federation(self) -> bytes:
        return self._roster.federation

    def key_of(self, peer: PeerId) -> Key | None:
        identity = self._roster.identities.get(peer)
        return None if identity is None else identity.id

    def peer_of(self, key: Key) -> PeerId | None:
        return self._roster.peer_of(key)

    def open(self, genesis: bytes, rule: QuorumRule) -> SharedMemory:
        if genesis not in self._open:
            self._open[genesis] = SharedMemory(self._roster.charter(genesis, rule), self._roster.known)
        return self._open[genesis]

    def save(self) -> list[tuple[bytes, list[bytes]]]:
        """For each chain its charter, and its blocks in batches."""
        found = []
        for genesis in sorted(self._open):
            chain = self._open[genesis]
            batches = []
            for epoch in range(chain.chain.state.epoch + 1):
                height = 0
                while (batch := chain.blocks(epoch, height)) is not None:
                    batches.append(batch.encode())
                    height = batch.blocks[-1].block.height
            found.append((chain.start.encode(), batches))
        return found

    def restore(self, saved: list[tuple[bytes, list[bytes]]]) -> None:
        """The inverse of ``save``. Raises LedgerError for what it did not write."""
        for start, batches in saved:
            charter = Charter.decode(start)
            chain = self._open[charter.genesis] = SharedMemory(charter, self._roster.known)
            for data in batches:
                chain.receive(Batch.decode(data))
