"""How a protocol comes by its shared chain: it asks its peer, in simulation and for real, and gets this.

Terms belong to the protocol and its settings, so all peers ask for the same. Who votes at first is the founder's word,
which the charter bears; the terms in it are checked by each peer against its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.identity import PeerId as Key
from coterie.ledger.encoding import pack
from coterie.ledger.shared import Charter, Checkpoint, QuorumRule, SharedLedger, Voter, Voters
from coterie.protocols.consensus.application import Application
from coterie.protocols.consensus.consensus import Consensus
from coterie.protocols.peer import Peer, PeerId

_BEACON = b"coterie first beacon"


@dataclass(frozen=True)
class ChainTerms:
    """What a protocol wants of its chain."""

    rule: QuorumRule = field(default_factory=QuorumRule)
    lock_epochs: int = 100
    """Evidence may be recorded for so many epochs."""
    weights: Mapping[PeerId, int] | None = None
    """Who votes at first, with how much, at least 1; None: all of ``Peer.members``, equally."""

    def charter(self, founder: Identity, genesis: bytes, voters: Mapping[Key, tuple[bytes, int]]) -> Charter:
        """The charter by these terms. ``voters``: public key of the random function and weight, by key.

        The first beacon follows from the genesis hash and the voters: a founder has only its choice of those. Raises
        LedgerError.
        """
        chosen = Voters.of(Voter(key, vrf, weight) for key, (vrf, weight) in voters.items())
        beacon = hashlib.sha256(_BEACON + pack((genesis, chosen.hash))).digest()
        return Charter.make(founder, genesis, chosen, beacon, self.rule, self.lock_epochs)

    def require(self, start: Charter | Checkpoint) -> None:
        """Raise LedgerError for a chain by other terms."""
        if (start.rule, start.lock_epochs) != (self.rule, self.lock_epochs):
            raise LedgerError(
                "the shared chain was founded on other terms than this peer's protocol has",
                where="charter",
                remedy="All peers must run the same version of the protocol, with the same settings.",
            )


@dataclass
class PeerChain:
    """One peer's shared chain: where it lies, and who is who in it."""

    ledger: SharedLedger
    key_of: Callable[[PeerId], Key | None]
    """A member's key; None for who is no member."""
    peer_of: Callable[[Key], PeerId | None]
    now: Callable[[], int]
    """Milliseconds since 1970, for blocks and records; in a simulation since its beginning."""
    consensus: Consensus | None = None

    def agree(self, peer: Peer, application: Application, delay: float = 1.0) -> Consensus:
        """Consensus on this chain for an application; ``run`` it, with ``peer.beside``. ``delay`` as there."""
        self.consensus = Consensus(
            peer, self.ledger, application, delay=delay, key_of=self.key_of, peer_of=self.peer_of, now=self.now
        )
        return self.consensus
