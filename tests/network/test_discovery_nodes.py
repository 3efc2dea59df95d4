"""Whole nodes that find each other through real tables on 127.0.0.1. A dial is a look into a dict."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress

from coterie.identity import Identity
from coterie.network.discovery import Address, AddressBook, Announcement, Dht, Discovery, Rendezvous, load_book

GENESIS = b"g" * 32
DEADLINE = 90.0


class World:
    """Who can be dialled where."""

    def __init__(self):
        self.owners, self.sites = {}, []

    async def site(self, contacts, folder=None, number=None, port=None):
        number = len(self.sites) if number is None else number
        site = Site(self, number, port or 20_000 + number, contacts, folder)
        self.sites.append(site)
        async with asyncio.timeout(DEADLINE):
            await site.discovery.start()
        site.task = asyncio.create_task(site.discovery.run())
        return site


class Site:
    def __init__(self, world, number, port, contacts, folder):
        self.world, self.identity = world, Identity.from_seed(bytes([number + 1]) * 32)
        self.endpoint = Address.of("127.0.0.1", port)
        self.met = set()
        state, book_path = (folder / "table", folder / "book.json") if folder else (None, None)
        book = AddressBook(private_networks=True)
        if book_path:
            load_book(book, book_path, GENESIS, time.time())
        self.dht = Dht("127.0.0.1:0", contacts, state, private_networks=True)
        self.discovery = Discovery(
            self.identity,
            GENESIS,
            book,
            self.dial,
            is_member=lambda peer: True,
            dht=self.dht,
            endpoints=[self.endpoint],
            book_path=book_path,
        )
        world.owners[self.endpoint] = self.identity.id

    @property
    def contact(self):
        return f"127.0.0.1:{self.dht.port}"

    def dial(self, address, peer):
        proved = self.world.owners.get(address)
        self.discovery.dialled(address, peer, proved)
        if proved is not None:
            self.met.add(proved)

    async def stop(self):
        self.world.owners.pop(self.endpoint, None)
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.discovery.close()


@asynccontextmanager
async def six(folder=None):
    """Six that know one contact, once each has met all others."""
    world = World()
    try:
        first = await world.site([])
        for number in range(1, 6):
            inner = folder if folder and number == 5 else None
            await world.site([first.contact], inner)
        await meet(world.sites, world.sites)
        yield world
    finally:
        await asyncio.gather(*(site.stop() for site in world.sites))


async def meet(sites, others):
    """Wait until each of ``sites`` has met all ``others``."""
    async with asyncio.timeout(DEADLINE):
        while any({o.identity.id for o in others} - site.met - {site.identity.id} for site in sites):
            assert not any(site.task.done() for site in sites)
            await asyncio.sleep(0.02)


async def record(reader, other):
    """Wait until ``reader`` finds the announcement of ``other`` in the table."""
    own = Announcement.decode(other.discovery.tell().announcements[0], GENESIS, time.time())
    rendezvous = Rendezvous(GENESIS)
    async with asyncio.timeout(DEADLINE):
        while (sealed := await reader.dht.get(own.dht_key, rendezvous.salt(own.dht_key))) is None:
            await asyncio.sleep(0.02)
    assert rendezvous.open(sealed) == own.encode()


def test_a_newcomer_finds_and_is_found_when_the_contact_is_dead():
    """It finds the others in a second. It is found after some 15: libtorrent waits for the dead node first."""

    async def main():
        async with six() as world:
            await world.sites[0].stop()
            living = world.sites[1:]
            newcomer = await world.site([living[2].contact])
            await meet([newcomer], living)
            await meet(living, [newcomer])
            assert world.sites[0].identity.id not in newcomer.met

    asyncio.run(main())


def test_records_are_in_the_table_and_one_returns_with_its_saved_table_when_the_contact_is_dead(tmp_path):
    async def main():
        async with six(tmp_path) as world:
            await asyncio.gather(*(record(world.sites[1], other) for other in world.sites[2:]))
            last = world.sites[5]
            await last.stop()
            assert (tmp_path / "table").exists()
            (tmp_path / "book.json").unlink()  # the table alone has to do
            await world.sites[0].stop()
            again = await world.site([world.sites[0].contact], tmp_path, number=5)
            await meet([again], world.sites[1:5])

    asyncio.run(main())
