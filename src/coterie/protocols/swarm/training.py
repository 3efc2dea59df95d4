"""One peer's part in one training: what it knows, for the parts that lead, order and train to share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from coterie.errors import LedgerError
from coterie.identity import PeerId as Key
from coterie.identity import short_name
from coterie.layout import Snapshot
from coterie.ledger.records import Record
from coterie.ledger.shared import Checkpoint, SharedLedger, Voters
from coterie.protocols.peer import Peer, PeerId
from coterie.protocols.swarm.bell import Bell
from coterie.protocols.swarm.models import Models
from coterie.protocols.swarm.records import Agreed, CheckInRecord
from coterie.protocols.swarm.roll import Roll
from coterie.protocols.swarm.site import SwarmSite
from coterie.protocols.swarm.state import MergeBlock, State


@dataclass(frozen=True)
class Settings:
    """Times in seconds. The defaults are for real connections: a leader that dies is replaced in under 5 s."""

    full_wait: float = 30.0
    """The rest is waited for so long, once ``min_peers`` have checked in."""
    deadline: float = 300.0
    """Too few check-ins for so long are an error at a site that has nothing left to train, and told at others."""
    beat: float = 0.4
    """Between two signs of life."""
    silence: float = 1.5
    """A peer that is not heard for so long counts as gone."""
    leader_patience: float = 120.0
    """A leader that is there and does not get on for so long is passed over."""
    delay: float = 0.25
    """D of the consensus."""
    recompute: bool = False
    """Whether each voter merges the models itself before it votes for a merge."""


@dataclass(frozen=True)
class Proposal:
    """A merge that was proposed, and whose model is here."""

    found: MergeBlock
    snapshot: Snapshot

    @property
    def digest(self) -> bytes:
        return self.found.merge.model

    @property
    def records(self) -> tuple[Record, ...]:
        return (*(check_in.record for check_in in self.found.check_ins), self.found.record)


@dataclass
class Training:
    """``key_of`` and ``peer_of`` give None for who is no member; ``now``: ms since 1970, for records."""

    peer: Peer
    site: SwarmSite
    ledger: SharedLedger
    settings: Settings
    key_of: Callable[[PeerId], Key | None]
    peer_of: Callable[[Key], PeerId | None]
    now: Callable[[], int]
    bell: Bell = field(default_factory=Bell)
    at_work: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the site trains, merges or adopts: one thing at a time."""
    state: State = field(init=False)
    models: Models = field(init=False)
    roll: Roll = field(init=False)
    agreed: Agreed = field(init=False)
    proposals: dict[bytes, Proposal] = field(default_factory=dict)
    """For this epoch's merge, by the id of the leader's record."""
    check_in: CheckInRecord | None = None
    """This peer's own, for this epoch."""
    idle: bool = False
    """This peer waits for the merge."""
    progress: int = 0
    liars: list[Key] = field(default_factory=list)
    """Leaders that were found to have passed off another model as the merge; they are not waited for."""
    merged: Snapshot | None = None
    """The last merged model, where it is here."""
    merged_serial: int = 0
    """Of this peer's last check-in that went into a merge."""
    alone: bool = False
    """Too few can be reached: nothing can be merged."""
    blocked: str | None = None
    """Why nothing can be merged."""

    def __post_init__(self) -> None:
        chain, terms = self.ledger.chain, self.site.terms
        self.state = State(beacon=self.first.anchor, interval=terms.sync_frequency)
        self.models = Models(self.peer, self.site, self.settings.silence, self._is_heard)
        self.roll = Roll(self.settings.silence, self.peer.clock.time())
        self.agreed = Agreed.of(terms, self.site.layout.hash)
        self.genesis = chain.state.genesis

    @property
    def first(self) -> Checkpoint:
        """The state that the chain begins with."""
        found = self.ledger.checkpoint(0)
        if found is None:
            raise LedgerError("a training's chain must begin with its charter", where=self.site.terms.contract)
        return found

    @property
    def key(self) -> Key:
        return self.peer.identity.id

    @property
    def voters(self) -> Voters:
        """Of this epoch."""
        return self.ledger.chain.state.voters

    def others(self) -> list[PeerId]:
        """All peers but this one."""
        return [peer for peer in self.peer.members if peer != self.peer.id and self.key_of(peer) is not None]

    def is_member(self, key: Key) -> bool:
        return key in self.voters or self.peer_of(key) is not None

    def there(self, key: Key) -> bool:
        """Whether it can be reached: it is heard, or what it says waits behind a model of its on the way here."""
        if key == self.key or self.roll.is_there(key, self.peer.clock.time()):
            return True
        peer = self.peer_of(key)
        return peer is not None and not self.roll.has_left(key) and self.models.sends(peer)

    def _is_heard(self, peer: PeerId) -> bool:
        key = self.key_of(peer)
        return key is not None and self.roll.is_there(key, self.peer.clock.time())

    def lacks_the_end(self, key: Key) -> bool:
        """Whether it has not shown yet that it has the final model, and has not left."""
        return self.roll.lacks(key, self.state.epoch, self.state.merged)

    def check_ins(self) -> dict[Key, CheckInRecord]:
        """For this epoch's merge, of those that are there, this peer too; on the same terms. By authors, sorted."""
        heard = self.roll.check_ins(self.state.epoch)
        here = [key for key in heard if self.is_member(key) and self.there(key) and self.fits(heard[key])]
        found = {key: heard[key] for key in here}
        if self.check_in is not None and self.check_in.says.epoch == self.state.epoch:
            found[self.key] = self.check_in
        return dict(sorted(found.items()))

    def differs(self, key: Key) -> bool:
        """Whether it has checked in on other terms."""
        heard = self.roll.heard.get(key)
        return heard is not None and heard.check_in is not None and not self.fits(heard.check_in)

    def fits(self, check_in: CheckInRecord) -> bool:
        return not self.agreed.against(check_in.says.agreed)

    def holders(self, proposal: Proposal) -> list[Key]:
        """Who has a proposed model, this peer too."""
        return sorted({self.key, *self.roll.holders(proposal.digest, self.state.epoch)})

    def is_carried(self, proposal: Proposal) -> bool:
        """Whether enough voters have its model to agree on it."""
        state = self.ledger.chain.state
        places = [place for key in self.holders(proposal) if (place := state.voters.index(key)) is not None]
        return state.rule.reached(state.voters, places)

    def best(self) -> Proposal | None:
        """Of the merges whose models are here, the one that the most have; among equals the first by its id."""
        found = [(-len(self.holders(self.proposals[name])), name) for name in sorted(self.proposals)]
        return self.proposals[min(found)[1]] if found else None

    def name(self, key: Key) -> PeerId:
        """How a peer is called, for messages."""
        return self.peer_of(key) or short_name(key)
