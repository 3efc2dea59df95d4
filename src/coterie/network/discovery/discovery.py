"""Discovery for one node: static contacts, what members tell, and the distributed hash table, in one place.

It dials nobody. It calls ``found(address, peer)`` when something new is known of a peer: the best address to begin
with, the dialler goes on through ``book.candidates(peer)``. ``found(address, None)`` offers an address of which nobody
knows whose it is; those are offered again, ever more rarely. ``dialled`` tells what came of it.

Threat model. Addresses come from whoever likes to lie. A liar can cost failed dials: a peer is offered once in
``offer_seconds`` at most, and of addresses without an owner so many are kept and so many offered in a minute. A liar
who holds the table around the federation's hash can keep two peers from finding each other there; contacts and the
members' word are other ways. Whoever is dialled on a liar's word sees this node's IP address and the first bytes of
TLS. What members tell is believed of members alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coterie.errors import CoterieError, MessageError, OutputError
from coterie.identity import Identity, PeerId
from coterie.network.addresses import Address
from coterie.network.discovery.announcement import Announcement, dht_seed
from coterie.network.discovery.book import AddressBook, Source
from coterie.network.discovery.book_file import save_book
from coterie.network.discovery.dht import Dht
from coterie.network.discovery.messages import MOST_ANNOUNCEMENTS, MOST_HEARD, Addresses, Heard
from coterie.network.discovery.rendezvous import Rendezvous
from coterie.network.discovery.strangers import StrangerLimits, Strangers
from coterie.network.limits import TokenBucket

Found = Callable[[Address, PeerId | None], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiscoveryLimits:
    first_seconds: float = 0.25
    """Between the first two rounds; each wait is twice the one before."""
    news_seconds: float = 1.0
    """The longest wait after a round that brought something new."""
    offer_seconds: float = 5.0
    """A peer is offered once in that time at most, however often something new is said of it."""
    most_seconds: float = 60.0
    """The longest wait. The nodes that store a newcomer's announcement know it at once, all others by then."""
    announce_seconds: float = 900.0
    """Until the endpoints are announced again; the table forgets them after half an hour."""
    renew_seconds: float = 86400.0
    """Until a new announcement is signed."""
    tellings_a_minute: float = 120.0
    """Of one member that are looked at, in the long run; as many at once. Each costs up to 64 signatures."""
    records_a_round: int = 8
    """Records of peers that cannot be reached, looked up in one round."""
    strangers: StrangerLimits = field(default_factory=StrangerLimits)


class Discovery:
    """Finds addresses of members for the node of ``identity``.

    genesis: the federation's genesis hash, 32 bytes.
    book: what is known already; it is added to here. ``book_path``: where it is saved, if anywhere.
    found: called with (address, peer or None) for what is worth a dial. It must not block or raise.
    is_member: whether a peer is a member, now; of others nothing told is kept.
    dht: the node's end of the table, not yet started; None: no table.
    endpoints: where this node can be dialled, the best first; none for a site that only dials out.
    contacts: addresses that the operator configured, of which nobody knows whose they are.
    wall: seconds since 1970.
    """

    def __init__(
        self,
        identity: Identity,
        genesis: bytes,
        book: AddressBook,
        found: Found,
        *,
        is_member: Callable[[PeerId], bool],
        dht: Dht | None = None,
        endpoints: Sequence[Address] = (),
        contacts: Sequence[Address] = (),
        book_path: Path | None = None,
        limits: DiscoveryLimits | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.book, self.dht = book, dht
        self.limits = limits or DiscoveryLimits()
        self._identity, self._rendezvous = identity, Rendezvous(genesis)
        self._found, self._is_member, self._book_path, self._wall = found, is_member, book_path, wall
        self._endpoints = tuple(endpoints)
        self._strangers = Strangers(self.limits.strangers)
        self._tellers: dict[PeerId, TokenBucket] = {}
        self._owners: dict[Address, PeerId] = {}
        """Who was found at an address last; this node itself too. The last so many."""
        self._offered: dict[PeerId, float] = {}
        """When a peer was offered last, by the monotonic clock."""
        self._own: Announcement | None = None
        self._announced = (0, 0.0)
        """Nodes in the table when the endpoints were announced last, and when, by the monotonic clock."""
        self._nodes = 0
        self._record_put: Announcement | None = None
        self._news, self._woken = False, asyncio.Event()
        self._strangers.configure(contacts)
        if dht is not None:
            dht.heard = self._on_heard

    async def start(self) -> None:
        """Open the table. Raises NetworkError from ``Dht``."""
        if self.dht is not None:
            await self.dht.start()

    async def close(self) -> None:
        """Close the table, and save the book."""
        if self.dht is not None:
            await self.dht.close()
        self._save()

    async def run(self) -> None:
        """Look for peers until cancelled, between ``start`` and ``close``."""
        wait = self.limits.first_seconds
        while True:
            self._news = False
            self._woken.clear()
            await self._round(max(1.0, wait))
            wait = min(2 * wait, self.limits.news_seconds if self._news else self.limits.most_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()
                    wait = self.limits.first_seconds

    def wake(self) -> None:
        """Look again at once: a connection was lost, or the network has changed."""
        self._woken.set()

    # What the dialler says

    def dialled(self, address: Address, expected: PeerId | None, proved: PeerId | None) -> None:
        """A dial has ended: ``expected`` should have been there, ``proved`` was by its key; None: nobody, or not known.

        Report dials to addresses of the book and to those offered without an owner alike.
        """
        now = self._wall()
        if expected is not None and expected != proved:
            self.book.failed(expected, address, now)
        if proved is None:
            return
        self._strangers.known(address)
        self._owners.pop(address, None)
        self._owners[address] = proved
        if len(self._owners) > self.book.limits.peers:
            del self._owners[next(iter(self._owners))]
        if proved != self._identity.id:
            self.book.worked(proved, address, now)

    # What members say to each other

    def tell(self) -> Addresses:
        """What this node tells a member: its own announcement, those of others, and where it found who has none.

        A random choice where they are too many for one message.
        """
        own = self._current()
        others = [a for peer, a in self.book.announcements.items() if peer != self._identity.id]
        others = [a for a in others if self._is_member(a.peer)]
        most = MOST_ANNOUNCEMENTS - 1
        chosen = random.sample(others, most) if len(others) > most else others
        heard = [
            Heard(peer, str(address))
            for peer, entries in self.book.entries.items()
            for address, entry in entries.items()
            if entry.worked is not None and not entry.failures and entry.source in (Source.CONFIGURED, Source.HEARSAY)
            if self._is_member(peer)
        ]
        if len(heard) > MOST_HEARD:
            heard = random.sample(heard, MOST_HEARD)
        announcements = [*([own] if own else []), *chosen]
        return Addresses(tuple(a.encode() for a in announcements), tuple(heard))

    def told(self, teller: PeerId, message: Addresses) -> None:
        """A member has told addresses. Raises MessageError, with nothing taken over, where any of it is malformed.

        Who tells too often is not heard: what it knows is told again.
        """
        most = self.limits.tellings_a_minute
        if not self._tellers.setdefault(teller, TokenBucket(most / 60, most)).take():
            return
        now, genesis = self._wall(), self._rendezvous.genesis
        announcements = [Announcement.decode(data, genesis, now) for data in message.announcements]
        try:
            heard = [(item.peer, Address.parse(item.address)) for item in message.heard]
        except CoterieError as error:
            raise MessageError(f"an address told is none: {error.what}", where=teller) from None
        for announcement in announcements:
            self._take(announcement, Source.SIGNED)
        for peer, address in heard:
            if peer != self._identity.id and self._is_member(peer):
                self.book.heard(peer, address, teller, now)
                self._offer_known(peer)

    def forget(self, peer: PeerId) -> None:
        """A peer is no member any more: forget its addresses and its word."""
        self._tellers.pop(peer, None)
        self.book.forget(peer)

    # A round

    async def _round(self, seconds: float) -> None:
        """Offer what is known, announce ourselves, look in the table for at most about ``seconds``, save."""
        self.book.prune(self._wall())
        known = self.book.peers()
        self._offered = {peer: when for peer, when in self._offered.items() if peer in self.book.entries}
        for peer in known:
            self._offer_known(peer)
        self._offer_strangers()
        if self.dht is not None:
            nodes = await self.dht.nodes()
            if nodes > self._nodes or not nodes:
                self._news = True  # the table fills, or is empty: look again soon
            self._nodes = nodes
            if nodes:
                self._announce(self.dht, nodes)
                seconds = min(seconds, self.dht.limits.seconds)
                look = self.dht.find(self._rendezvous.info_hash, seconds)
                await asyncio.gather(look, self._put(self.dht), self._look_up(self.dht))
        self._offer_strangers()
        self._save()

    def _announce(self, dht: Dht, nodes: int) -> None:
        """Announce our ports when it is time, and when the table has grown: its nearest nodes may be others now."""
        known, when = self._announced
        if self._endpoints and (nodes > known or time.monotonic() - when > self.limits.announce_seconds):
            self._announced = (nodes, time.monotonic())
            for port in sorted({endpoint.port for endpoint in self._endpoints}):
                dht.announce(self._rendezvous.info_hash, port)
            self._record_put = None

    async def _put(self, dht: Dht) -> None:
        """Store our announcement in the table."""
        own = self._current()
        if own is None or own == self._record_put:
            return
        seed, record = dht_seed(self._identity, self._rendezvous.genesis), self._rendezvous.seal(own.encode())
        if await dht.put(seed, record, self._rendezvous.salt(own.dht_key)):
            self._record_put = own

    async def _look_up(self, dht: Dht) -> None:
        """See in the table whether peers that cannot be reached have moved."""
        lost = [peer for peer in self.book.unreached() if self._is_member(peer) and peer != self._identity.id]
        chosen = random.sample(lost, min(len(lost), self.limits.records_a_round))
        await asyncio.gather(*(self._look_up_one(dht, self.book.announcements[peer]) for peer in chosen))

    async def _look_up_one(self, dht: Dht, known: Announcement) -> None:
        sealed = await dht.get(known.dht_key, self._rendezvous.salt(known.dht_key))
        if sealed is None:
            return
        try:
            record = self._rendezvous.open(sealed)
            announcement = Announcement.decode(record, self._rendezvous.genesis, self._wall())
        except MessageError as error:
            _log.info("a record in the table is refused: %s", error)
            return
        if announcement.peer == known.peer:
            self._take(announcement, Source.TABLE)

    # Taking in, and handing out

    def _current(self) -> Announcement | None:
        """Our announcement, signed anew when it is old or when one of ours with a higher number is about."""
        if not self._endpoints:
            return None
        now, own = self._wall(), self._own
        known = self.book.announcements.get(self._identity.id)
        latest = max((a.sequence for a in (own, known) if a is not None), default=0)
        if own is None or own.sequence < latest or now - own.time / 1000 > self.limits.renew_seconds:
            sequence = max(latest + 1, int(now * 1000))
            own = Announcement.make(self._identity, self._rendezvous.genesis, self._endpoints, sequence, now)
            self._own = own
        return own

    def _take(self, announcement: Announcement, source: Source) -> None:
        """Enter a checked announcement. One of our own, told back to us, counts where we had forgotten it."""
        peer = announcement.peer
        if peer == self._identity.id:
            if self._own is None or announcement.sequence > self._own.sequence:
                self.book.announcements[peer] = announcement
        elif self._is_member(peer) and self.book.announced(announcement, self._wall(), source):
            self._offer_known(peer)

    def _offer_known(self, peer: PeerId) -> None:
        """Offer a peer of whom there is a new address, unless it was offered a moment ago; then the next round does."""
        entries, now = self.book.entries.get(peer, {}), time.monotonic()
        if peer == self._identity.id or all(entry.offered for entry in entries.values()):
            return
        self._news = True
        if now - self._offered.get(peer, -math.inf) >= self.limits.offer_seconds:
            self._offered[peer] = now
            for entry in entries.values():
                entry.offered = True
            self._found(self.book.candidates(peer)[0], peer)

    def _on_heard(self, info_hash: bytes, address: Address) -> None:
        """The table has named an address; nobody says whose."""
        ours = address in self._endpoints or info_hash != self._rendezvous.info_hash
        if not ours and not self._stands(address) and self._strangers.add(address):
            self._offer_strangers()

    def _offer_strangers(self) -> None:
        for address in self._strangers.due(time.monotonic()):
            if not self._stands(address):
                self._news = True
                self._found(address, None)

    def _stands(self, address: Address) -> bool:
        """Whether somebody was found at the address, and nothing since speaks against it."""
        owner = self._owners.get(address)
        if owner is None or owner == self._identity.id:
            return owner is not None
        entry = self.book.entries.get(owner, {}).get(address)
        return entry is not None and not entry.failures

    def _save(self) -> None:
        if self._book_path is not None:
            try:
                save_book(self.book, self._book_path)
            except OutputError as error:
                _log.warning("the address book is not saved: %s", error)
