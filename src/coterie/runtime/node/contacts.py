"""Where the others are: what discovery finds goes to the transport, what the transport proves goes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from coterie.errors import NodeError
from coterie.identity import Identity, PeerId, short_name
from coterie.network.discovery import Address, AddressBook, Addresses, Dht, Discovery, load_book
from coterie.network.grpc.transport import GrpcTransport
from coterie.protocols import Peer
from coterie.runtime.node.finding import owner_of
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.messages import Reach
from coterie.runtime.node.roster import Roster

_TELL = (1.0, 60.0)
"""Seconds between two tellings: at first, and at most. The wait doubles."""
_FANOUT = 3
_DIAL_EVERY = 5.0
"""Seconds between two dials that one member may ask for."""
_log = logging.getLogger("coterie.node")


class Contacts:
    """The addresses of a node's federation. ``run`` goes on until it is cancelled."""

    def __init__(
        self, home: Home, table: NodeTable, identity: Identity, roster: Roster, peer: Peer, transport: GrpcTransport
    ) -> None:
        """The transport must have been started: its port is announced."""
        self._table, self._identity, self._roster = table, identity, roster
        self._peer, self._transport = peer, transport
        path = home.path / "addresses.json"
        self._book = AddressBook(private_networks=table.private_networks)
        load_book(self._book, path, roster.store.genesis, time.time())
        dht = None
        if table.dht_listen is not None:
            dht = Dht(
                table.dht_listen,
                table.dht,
                home.path / "dht.state",
                private_networks=table.private_networks,
                read_only=table.listen is None,
            )
        self._discovery = Discovery(
            identity,
            roster.store.genesis,
            self._book,
            self._found,
            is_member=roster.membership_has,
            dht=dht,
            endpoints=[Address.parse(text) for text in self.endpoints()],
            contacts=[Address.parse(text) for text in table.contacts],
            book_path=path,
        )
        if table.listen is not None and not self.endpoints():
            _log.warning("others are not told where this node listens: set announce in node.toml")
        self._probes: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._seen: frozenset[PeerId] = frozenset()
        self._dialled: dict[PeerId, float] = {}
        peer.handle(Addresses, self._discovery.told)

    @property
    def knows_anybody(self) -> bool:
        """Whether there is an address to begin with."""
        return bool(self._table.contacts or self._table.dht_listen or self._book.entries)

    async def start(self) -> None:
        """Listen for the Kademlia table, where there is to be one. Raises NetworkError."""
        await self._discovery.start()

    async def close(self) -> None:
        """Of what has been started."""
        await self._discovery.close()

    async def run(self) -> None:
        """Find, and tell others what was found."""
        telling = asyncio.create_task(self._tell())
        try:
            await self._discovery.run()
        finally:
            for task in (telling, *self._probes):
                task.cancel()

    def members_changed(self) -> None:
        """Somebody came or went."""
        for peer in list(self._book.entries):
            if not self._roster.membership_has(peer):
                self._discovery.forget(peer)
                self._transport.set_address(peer, None)
        self._discovery.wake()
        self._news.set()

    def configure(self, addresses: Mapping[str, str]) -> None:
        """The operator says where members are."""
        for peer, text in addresses.items():
            address = Address.parse(text)
            if peer != self._identity.id:
                self._book.configure(peer, address, time.time())
                self._transport.set_address(peer, str(address))

    def address_of(self, peer: PeerId) -> str | None:
        """The best address known of a peer."""
        candidates = self._book.candidates(peer)
        return str(candidates[0]) if candidates else None

    async def can_dial(self, peer: PeerId) -> Reach | None:
        """The answer to a member that asks whether it can be dialled where it says it is; None if it asks too often."""
        now = time.monotonic()
        if now - self._dialled.get(peer, -_DIAL_EVERY) < _DIAL_EVERY:
            return None
        self._dialled[peer] = now
        candidates = self._book.candidates(peer)
        owners = [await owner_of(address, self._roster.members()) for address in candidates[:2]]
        return Reach(peer in owners)

    @property
    def dht_port(self) -> int | None:
        """Where this node takes part in the table; None while it does not."""
        return (self._discovery.dht.port or None) if self._discovery.dht is not None else None

    async def at_door(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Which of these show their certificates where they are known to listen: dialled, and not met, they refuse."""
        known, members = [peer for peer in peers if self._book.candidates(peer)], self._roster.members()
        owners = await asyncio.gather(*(owner_of(self._book.candidates(peer)[0], members) for peer in known))
        return [peer for peer, owner in zip(known, owners, strict=True) if owner == peer]

    def own_contact(self, port: int) -> str:
        """This machine as newcomers reach it, with ``port``. Raises NodeError where only the operator can know."""
        for text in (self._table.announce, self._table.join):
            if text and not _unspecified(text):
                return str(Address.of(Address.parse(text, to_listen=True).host, port))
        raise NodeError(
            "it is not known under which address newcomers reach this node",
            where="node.toml",
            remedy='Set  announce = "host:port"  there, or give --contact host:port.',
        )

    def endpoints(self) -> list[str]:
        """Where others can dial this node."""
        if self._table.announce is not None:
            return [self._table.announce]
        if self._table.listen is None:
            return []
        if _unspecified(self._table.listen):
            return []
        return [str(Address.of(Address.parse(self._table.listen, to_listen=True).host, self._transport.port or 0))]

    def _found(self, address: Address, peer: PeerId | None) -> None:
        if peer is not None:
            if self._roster.membership_has(peer):
                self._transport.set_address(peer, str(address))
            return
        task = asyncio.get_running_loop().create_task(self._probe(address))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, address: Address) -> None:
        """Whose is an address that somebody named without a name?"""
        owner = await owner_of(address, self._roster.members())
        self._discovery.dialled(address, None, owner)
        if owner is not None and owner != self._identity.id:
            _log.info("found %s at %s", short_name(owner), address)
            self._transport.set_address(owner, str(address))
            self._news.set()

    async def _tell(self) -> None:
        """Tell a few connected members what is known here: often while there is news, else ever more rarely."""
        first, most = _TELL
        wait = first
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
                self._news.clear()
                await asyncio.sleep(0.1)  # several pieces of news come together
            except TimeoutError:
                wait = min(2 * wait, most)
            reachable = [p for p in self._roster.peers if p != self._identity.id and self._book.candidates(p)]
            connected = self._transport.connected
            if frozenset(connected) != self._seen:
                self._seen, wait = frozenset(connected), first
            those = list(dict.fromkeys([*connected, *reachable]))
            message = self._discovery.tell()
            for member in self._peer.secrets.sample(those, min(_FANOUT, len(those))):
                self._peer.send(member, message)


def _unspecified(listen: str) -> bool:
    return Address.parse(listen, to_listen=True).unspecified
