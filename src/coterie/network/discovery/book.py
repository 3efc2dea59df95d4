"""The address book: for each peer, where it is said to be, by whom, and what came of dialling there.

Everything in it but the configured addresses is the word of others, who may lie or flood:

- what a peer signed counts before what another member says of it, and replaces what it signed before;
- a member's unsigned word is kept for so many addresses in all, the oldest going first, and never drives out an address
  that was configured, signed by its peer or found to work;
- the book holds so many peers, and so many addresses of each.

Addresses that are not public are taken from others only in a book for private networks: otherwise a liar could have
this machine dial what lies behind its own firewall.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from coterie.identity import PeerId
from coterie.network.addresses import Address
from coterie.network.discovery.announcement import Announcement


class Source(IntEnum):
    """Who said that a peer is at an address; the most trustworthy first."""

    CONFIGURED = 0
    """This node's operator."""
    SIGNED = 1
    """The peer itself, in an announcement that members told."""
    TABLE = 2
    """The peer itself, in an announcement found in a distributed hash table."""
    HEARSAY = 3
    """Another member, or nobody known."""


@dataclass(frozen=True)
class BookLimits:
    """How much is kept of what others say."""

    peers: int = 4096
    addresses_per_peer: int = 16
    """Beside the configured ones."""
    hearsay_per_teller: int = 512
    failures: int = 5
    """So many failed dials in a row, none ever having worked, end an address known by hearsay alone."""
    hearsay_seconds: float = 86400.0
    """How long hearsay is kept that was never found to work."""
    worked_seconds: float = 30 * 86400.0
    """How long an address is kept after it worked last."""


@dataclass
class Entry:
    """One address of one peer. Times are seconds since 1970."""

    source: Source
    said: float
    """When it was last said by that source."""
    teller: PeerId | None = None
    """Whose word it is, where it is hearsay."""
    worked: float | None = None
    """When the peer was last found there."""
    failed: float | None = None
    failures: int = 0
    """Failed dials since it worked last."""
    offered: bool = False
    """Whether this process has handed it to the dialler."""


@dataclass
class AddressBook:
    """Addresses of peers. ``now`` is seconds since 1970 throughout. It reads no clock and no file."""

    private_networks: bool = False
    """Take loopback, private and link-local addresses from others too."""
    limits: BookLimits = field(default_factory=BookLimits)
    entries: dict[PeerId, dict[Address, Entry]] = field(default_factory=dict)
    announcements: dict[PeerId, Announcement] = field(default_factory=dict)
    """The latest of each peer; all were checked before they came here."""
    _told: dict[PeerId, dict[tuple[PeerId, Address], None]] = field(default_factory=dict)
    """By teller: the hearsay that is kept, the oldest first."""

    # What is said

    def configure(self, peer: PeerId, address: Address, now: float) -> None:
        """The operator says that ``peer`` is at ``address``."""
        self._say(peer, address, Entry(Source.CONFIGURED, now))

    def announced(self, announcement: Announcement, now: float, source: Source = Source.SIGNED) -> bool:
        """A checked announcement has come. Whether it is news: an older or equal sequence number changes nothing."""
        peer = announcement.peer
        known = self.announcements.get(peer)
        if known is not None and announcement.sequence <= known.sequence:
            return False
        if not self._room_for(peer):
            return False
        self.announcements[peer] = announcement
        addresses = [a for a in announcement.addresses if self.takes(a)]
        for address, entry in list(self.entries.get(peer, {}).items()):
            if entry.source in (Source.SIGNED, Source.TABLE) and address not in addresses:
                self._drop(peer, address)
        for address in addresses:
            self._say(peer, address, Entry(source, now))
        return True

    def heard(self, peer: PeerId, address: Address, teller: PeerId | None, now: float) -> bool:
        """``teller`` says that ``peer`` is at ``address``. Whether that is news."""
        known = self.entries.get(peer, {}).get(address)
        if known is not None:
            if known.source is Source.HEARSAY and known.teller == teller:
                known.said = now
            return False
        if not self.takes(address) or not self._room_for(peer):
            return False
        self._say(peer, address, Entry(Source.HEARSAY, now, teller))
        return address in self.entries.get(peer, {})

    def takes(self, address: Address) -> bool:
        """Whether the word of others may lead there."""
        return self.private_networks or address.public

    # What came of dialling

    def worked(self, peer: PeerId, address: Address, now: float) -> None:
        """TLS has proved that ``peer`` is at ``address``."""
        if self._room_for(peer):
            entry = self.entries.setdefault(peer, {}).setdefault(address, Entry(Source.HEARSAY, now))
            entry.worked, entry.failures, entry.offered = now, 0, True
            self._shorten(peer)

    def failed(self, peer: PeerId, address: Address, now: float) -> None:
        """Nobody was at ``address``, or somebody else."""
        entry = self.entries.get(peer, {}).get(address)
        if entry is None:
            return
        entry.failed, entry.failures = now, entry.failures + 1
        if entry.source is Source.HEARSAY and entry.worked is None and entry.failures >= self.limits.failures:
            self._drop(peer, address)

    # What is known

    def candidates(self, peer: PeerId) -> list[Address]:
        """Where to dial ``peer``, the best first.

        Fewest failures since it last worked; then those that ever worked; then by source; then the latest.
        """
        entries = self.entries.get(peer, {})
        return sorted(entries, key=lambda address: (_trial(entries[address]), address))

    def peers(self) -> list[PeerId]:
        """Those of whom an address is known, in order."""
        return sorted(self.entries)

    def unreached(self) -> list[PeerId]:
        """Those who announced themselves once and of whom no address stands untried or working, in order."""
        return sorted(
            peer for peer in self.announcements if all(entry.failures for entry in self.entries.get(peer, {}).values())
        )

    # Forgetting

    def forget(self, peer: PeerId) -> None:
        """Forget a peer, and its word on others: it is no member any more."""
        for address in list(self.entries.get(peer, {})):
            self._drop(peer, address)
        self.announcements.pop(peer, None)
        for about, address in list(self._told.get(peer, {})):
            self._drop(about, address)

    def prune(self, now: float) -> None:
        """Forget what is too old."""
        for peer, announcement in list(self.announcements.items()):
            if not announcement.fresh(now):
                del self.announcements[peer]
        for peer, entries in list(self.entries.items()):
            for address, entry in list(entries.items()):
                if not self._kept(peer, entry, now):
                    self._drop(peer, address)

    def _kept(self, peer: PeerId, entry: Entry, now: float) -> bool:
        if entry.source is Source.CONFIGURED:
            return True
        if entry.source is not Source.HEARSAY and peer in self.announcements:
            return True
        if entry.worked is not None:
            return now - entry.worked <= self.limits.worked_seconds
        return entry.source is Source.HEARSAY and now - entry.said <= self.limits.hearsay_seconds

    def _say(self, peer: PeerId, address: Address, entry: Entry) -> None:
        """Enter what is said, keeping what came of dialling there."""
        entries = self.entries.setdefault(peer, {})
        known = entries.get(address)
        if known is not None:
            self._untell(peer, address, known)
            entry.source = min(entry.source, known.source)
            entry.worked, entry.failed, entry.failures = known.worked, known.failed, known.failures
            entry.offered = known.offered
        entries[address] = entry
        if entry.source is Source.HEARSAY and entry.teller is not None:
            told = self._told.setdefault(entry.teller, {})
            told[peer, address] = None
            if len(told) > self.limits.hearsay_per_teller:
                self._drop_hearsay(*next(iter(told)))
        self._shorten(peer)

    def _shorten(self, peer: PeerId) -> None:
        """Keep to the limit of addresses; the least worth keeping goes, which may be the one that has just come."""
        entries = self.entries.get(peer, {})
        others = [address for address, entry in entries.items() if entry.source is not Source.CONFIGURED]
        if len(others) > self.limits.addresses_per_peer:
            self._drop(peer, max(others, key=lambda address: (_worth(entries[address]), address)))

    def _room_for(self, peer: PeerId) -> bool:
        """Whether the peer may be entered; one of whom only others spoke, and longest ago, gives way."""
        if peer in self.entries or peer in self.announcements:
            return True
        if len(self.entries.keys() | self.announcements.keys()) < self.limits.peers:
            return True
        idle = [
            other
            for other, entries in self.entries.items()
            if other not in self.announcements
            and all(entry.source is Source.HEARSAY and entry.worked is None for entry in entries.values())
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda other: (max(entry.said for entry in self.entries[other].values()), other))
        for address in list(self.entries[oldest]):
            self._drop(oldest, address)
        return True

    def _drop_hearsay(self, peer: PeerId, address: Address) -> None:
        """A teller's oldest word goes; where the peer was found at that address, only the teller's claim to it."""
        entry = self.entries[peer][address]
        if entry.worked is None:
            self._drop(peer, address)
        else:
            self._untell(peer, address, entry)
            entry.teller = None

    def _drop(self, peer: PeerId, address: Address) -> None:
        entries = self.entries.get(peer, {})
        entry = entries.pop(address, None)
        if entry is not None:
            self._untell(peer, address, entry)
        if not entries:
            self.entries.pop(peer, None)

    def _untell(self, peer: PeerId, address: Address, entry: Entry) -> None:
        if entry.teller is not None and entry.teller in self._told:
            self._told[entry.teller].pop((peer, address), None)
            if not self._told[entry.teller]:
                del self._told[entry.teller]


def _trial(entry: Entry) -> tuple[int, bool, Source, float]:
    """The order in which addresses are tried."""
    return entry.failures, entry.worked is None, entry.source, -max(entry.said, entry.worked or 0.0)


def _worth(entry: Entry) -> tuple[bool, Source, int, float]:
    """The order in which addresses are kept."""
    return entry.worked is None and entry.source is Source.HEARSAY, entry.source, entry.failures, -entry.said
