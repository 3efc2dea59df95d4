"""Discovery without a network: what is offered, what is told and believed, what is put into the table."""

import asyncio
import dataclasses
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import MessageError
from coterie.identity import Identity
from coterie.network import Codec, Envelope
from coterie.network.discovery import (
    Address,
    AddressBook,
    Addresses,
    Announcement,
    DhtLimits,
    Discovery,
    DiscoveryLimits,
    Heard,
    Rendezvous,
    dht_seed,
)
from coterie.network.discovery.messages import MOST_ANNOUNCEMENTS, MOST_HEARD

GENESIS = b"g" * 32
NOW = 1_800_000_000.0
PEERS = [Identity.from_seed(bytes([n + 1]) * 32) for n in range(4)]
ME, ANNA, BERT, STRANGER = (identity.id for identity in PEERS)
MEMBERS = {ME, ANNA, BERT}


def at(number):
    return Address.of("h.example", number)


def announcement(who, *ports, sequence=1, genesis=GENESIS, time=NOW):
    return Announcement.make(PEERS[who], genesis, [at(port) for port in ports], sequence, time)


class Table:
    """Stands for the node of the table; keeps what is asked of it."""

    def __init__(self, nodes=3):
        self.limits, self.heard, self.size = DhtLimits(), None, nodes
        self.announced, self.found, self.records, self.open = [], set(), {}, None

    async def start(self):
        self.open = True

    async def close(self):
        self.open = False

    async def nodes(self):
        return self.size

    def announce(self, info_hash, port):
        self.announced.append((info_hash, port))

    async def find(self, info_hash, seconds=None):
        for address in self.found:
            self.heard(info_hash, address)
        return self.found

    async def put(self, seed, record, salt):
        self.records[seed, salt] = record
        return self.size

    async def get(self, public_key, salt):
        return self.records.get((public_key, salt))


@dataclasses.dataclass
class Clock:
    now: float = NOW

    def __call__(self):
        return self.now


def make(who=0, found=None, **words):
    return Discovery(
        PEERS[who],
        GENESIS,
        words.pop("book", None) or AddressBook(),
        (lambda address, peer: found.append((address, peer))) if found is not None else lambda *_: None,
        is_member=words.pop("is_member", MEMBERS.__contains__),
        wall=words.pop("wall", Clock()),
        **words,
    )


def rounds(discovery, count=1):
    async def main():
        for _ in range(count):
            await discovery._round(1.0)

    asyncio.run(main())


# Offering


def test_contacts_and_the_book_are_offered():
    found, book = [], AddressBook()
    book.announced(announcement(1, 7), NOW)
    book.configure(BERT, at(2), NOW)
    discovery = make(found=found, book=book, contacts=[at(1)])
    rounds(discovery, 3)
    assert sorted(found, key=str) == sorted([(at(1), None), (at(2), BERT), (at(7), ANNA)], key=str)


def test_an_address_of_the_table_is_offered_until_its_owner_is_known():
    found, table = [], Table()
    limits = DiscoveryLimits()
    limits = dataclasses.replace(limits, strangers=dataclasses.replace(limits.strangers, retry_seconds=0.0))
    discovery = make(found=found, dht=table, limits=limits)
    table.found = {at(5)}
    rounds(discovery)
    assert set(found) == {(at(5), None)}
    discovery.dialled(at(5), None, None)
    rounds(discovery)
    count = len(found)
    assert count >= 2
    discovery.dialled(at(5), None, ANNA)
    rounds(discovery, 2)
    assert len(found) == count
    assert discovery.book.candidates(ANNA) == [at(5)]
    discovery.dialled(at(5), ANNA, None)  # it went away, and somebody else may be there
    rounds(discovery)
    assert len(found) > count


def test_our_own_addresses_are_not_offered():
    found, table = [], Table()
    discovery = make(found=found, dht=table, endpoints=[at(1)])
    discovery.dialled(at(2), None, ME)  # our address as the world sees it
    table.found = {at(1), at(2)}
    rounds(discovery, 2)
    assert found == []
    assert discovery.book.peers() == []
    table.heard(b"i" * 20, at(3))  # of another federation
    assert found == []


def test_another_than_was_expected():
    book = AddressBook()
    book.configure(ANNA, at(1), NOW)
    discovery = make(book=book)
    discovery.dialled(at(1), ANNA, BERT)
    assert discovery.book.entries[ANNA][at(1)].failures == 1
    assert discovery.book.entries[BERT][at(1)].worked == NOW


def test_a_flood_from_a_member_costs_one_dial_in_a_while():
    found = []
    discovery = make(found=found)
    for n in range(50):
        heard = tuple(Heard(BERT, str(at(1 + 64 * n + k))) for k in range(64))
        signed = announcement(1, *range(8 * n + 1, 8 * n + 9), sequence=n + 1)
        discovery.told(ANNA, Addresses((signed.encode(),), heard))
    rounds(discovery, 5)
    assert sorted(peer for _, peer in found) == sorted([ANNA, BERT])
    assert len(discovery.book.candidates(BERT)) <= discovery.book.limits.addresses_per_peer


def test_who_tells_all_the_time_is_heard_now_and_then():
    """Each telling costs its reader 64 signatures: the loop of a node that looked at all would do nothing else."""
    discovery = make(limits=dataclasses.replace(DiscoveryLimits(), tellings_a_minute=10))
    for sequence in range(1, 101):
        discovery.told(ANNA, Addresses((announcement(1, 7, sequence=sequence).encode(),), ()))
    assert discovery.book.announcements[ANNA].sequence == 10
    discovery.told(BERT, Addresses((announcement(2, 8).encode(),), ()))
    assert BERT in discovery.book.announcements
    discovery.forget(ANNA)
    discovery.told(ANNA, Addresses((announcement(1, 7, sequence=200).encode(),), ()))
    assert discovery.book.announcements[ANNA].sequence == 200


def test_a_flood_from_the_table():
    found, table = [], Table()
    discovery, began = make(found=found, dht=table), time.monotonic()
    for port in range(1, 2000):
        table.heard(Rendezvous(GENESIS).info_hash, at(port))
    limits = discovery.limits.strangers
    assert len(found) <= limits.offers_a_minute * (1 + (time.monotonic() - began) / 60)
    assert len(discovery._strangers) <= limits.addresses


# Telling


def test_what_one_tells_the_other_believes_of_members():
    mine = make(endpoints=[at(1), at(2)], is_member=lambda peer: True)
    mine.book.announced(announcement(2, 5), NOW)
    mine.book.announced(announcement(3, 6), NOW)
    mine.dialled(at(7), None, STRANGER)
    mine.book.heard(BERT, at(8), None, NOW)  # never tried: not told
    mine.dialled(at(9), None, BERT)
    mine.dialled(at(5), None, BERT)  # it says so itself
    message = mine.tell()
    assert set(message.heard) == {Heard(STRANGER, str(at(7))), Heard(BERT, str(at(9)))}
    frame = Codec().encode(Envelope("send", 0, message))
    assert Codec().decode(frame.header, ()).message == message

    found = []
    theirs = make(1, found=found)
    theirs.told(ME, message)
    assert {peer: theirs.book.candidates(peer) for peer in theirs.book.peers()} == {
        ME: [at(1), at(2)],
        BERT: [at(5), at(9)],
    }
    assert {peer for _, peer in found} == {ME, BERT}
    theirs.forget(BERT)
    assert theirs.book.peers() == [ME]


def test_an_outbound_only_site_says_nothing_of_itself():
    table = Table()
    discovery = make(dht=table)
    rounds(discovery, 2)
    assert discovery.tell() == Addresses((), ())
    assert (table.announced, table.records) == ([], {})


def test_told_with_any_fault_nothing_is_taken():
    good = announcement(1, 5)
    bad = [
        Addresses((good.encode(), b"junk"), ()),
        Addresses((good.encode(), announcement(2, 5, genesis=b"h" * 32).encode()), ()),
        Addresses((good.encode(), announcement(2, 5, time=NOW - 8 * 86400).encode()), ()),
        Addresses((good.encode(),), (Heard(BERT, "h.example:0"),)),
    ]
    discovery = make()
    for message in bad:
        with pytest.raises(MessageError):
            discovery.told(ANNA, message)
    assert discovery.book.peers() == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.binary(max_size=1100), max_size=3),
    st.lists(st.tuples(st.text(max_size=70), st.text(max_size=300)), max_size=3),
)
def test_any_message_is_taken_or_refused(announcements, heard):
    frame = Codec().encode(Envelope("send", 0, Addresses(tuple(announcements), tuple(Heard(*item) for item in heard))))
    discovery = make()
    with suppress(MessageError):
        discovery.told(ANNA, Codec().decode(frame.header, ()).message)
    assert discovery.book.peers() == []


def test_limits_of_the_message():
    for message in (
        Addresses((b"x",) * (MOST_ANNOUNCEMENTS + 1), ()),
        Addresses((b"x" * 1000,), ()),
        Addresses((), (Heard(ANNA, "h.example:1"),) * (MOST_HEARD + 1)),
        Addresses((), (Heard(ANNA, "h" * 300),)),
        Addresses((), (Heard("a", "h.example:1"),)),
    ):
        frame = Codec().encode(Envelope("send", 0, message))
        with pytest.raises(MessageError):
            Codec().decode(frame.header, ())


def test_of_many_members_as_many_are_told_as_fit():
    identities = [Identity.from_seed(n.to_bytes(32, "big")) for n in range(200)]
    discovery = make(endpoints=[at(1)], is_member=lambda peer: True)
    for identity in identities[:100]:
        discovery.book.announced(Announcement.make(identity, GENESIS, [at(5)], 1, NOW), NOW)
    for identity in identities[100:]:
        discovery.dialled(at(6), None, identity.id)
    message = discovery.tell()
    frame = Codec().encode(Envelope("send", 0, message))
    assert Codec().decode(frame.header, ()).message == message
    assert (len(message.announcements), len(message.heard)) == (MOST_ANNOUNCEMENTS, MOST_HEARD)
    assert Announcement.decode(message.announcements[0], GENESIS, NOW).peer == ME


# The table


def test_announced_when_the_table_grows_and_put_once():
    table = Table(nodes=0)
    discovery = make(dht=table, endpoints=[at(7), Address.parse("other.example:7"), at(8)])
    rounds(discovery, 2)
    assert table.announced == []
    info_hash = Rendezvous(GENESIS).info_hash
    for nodes, times in ((2, 1), (2, 1), (5, 2), (4, 2)):
        table.size = nodes
        rounds(discovery)
        assert table.announced == [(info_hash, 7), (info_hash, 8)] * times
    ((seed, salt), sealed) = next(iter(table.records.items()))
    own = Announcement.decode(Rendezvous(GENESIS).open(sealed), GENESIS, NOW)
    assert (seed, own.peer) == (dht_seed(PEERS[0], GENESIS), ME)
    assert salt == Rendezvous(GENESIS).salt(own.dht_key)


def test_signed_anew_each_day_with_a_higher_number_than_any_seen():
    clock = Clock()
    discovery = make(endpoints=[at(1)], wall=clock)

    def own():
        return Announcement.decode(discovery.tell().announcements[0], GENESIS, clock.now)

    first = own()
    assert own() == first
    clock.now += 86401
    second = own()
    assert second.sequence > first.sequence
    # One of ours that we have forgotten is about, its number in the far future: by a clock that was wrong.
    discovery.told(ANNA, Addresses((announcement(0, 9, sequence=1 << 50).encode(),), ()))
    assert own().sequence == (1 << 50) + 1
    assert own().endpoints == (str(at(1)),)


def test_a_peer_that_moved_is_found_in_the_table():
    table, found, rendezvous = Table(), [], Rendezvous(GENESIS)
    discovery = make(dht=table, found=found, limits=DiscoveryLimits(offer_seconds=0.0))
    old, moved = announcement(1, 5, sequence=3), announcement(1, 6, sequence=4)
    discovery.told(BERT, Addresses((old.encode(),), ()))
    where = (old.dht_key, rendezvous.salt(old.dht_key))
    table.records[where] = rendezvous.seal(moved.encode())
    rounds(discovery)
    assert discovery.book.candidates(ANNA) == [at(5)]  # not looked up: nothing speaks against what is known
    discovery.dialled(at(5), ANNA, None)
    for wrong in (
        b"junk",
        Rendezvous(b"h" * 32).seal(moved.encode()),
        rendezvous.seal(b"junk"),
        rendezvous.seal(announcement(2, 6, sequence=4).encode()),
        rendezvous.seal(announcement(1, 6, sequence=2).encode()),
        rendezvous.seal(announcement(1, 6, sequence=4, time=NOW - 8 * 86400).encode()),
    ):
        table.records[where] = wrong
        rounds(discovery)
        assert discovery.book.candidates(ANNA) == [at(5)]
        assert discovery.book.peers() == [ANNA]
    table.records[where] = rendezvous.seal(moved.encode())
    rounds(discovery)
    assert discovery.book.candidates(ANNA) == [at(6)]
    assert found == [(at(5), ANNA), (at(6), ANNA)]


def test_start_and_close_are_the_tables_and_the_book_is_saved(tmp_path):
    table, path = Table(), tmp_path / "book.json"
    discovery = make(dht=table, contacts=[at(1)], book_path=path)

    async def main():
        await discovery.start()
        assert table.open
        task = asyncio.create_task(discovery.run())
        async with asyncio.timeout(60):
            while not path.exists():
                await asyncio.sleep(0.01)
        path.unlink()
        discovery.wake()
        async with asyncio.timeout(60):
            while not path.exists():
                await asyncio.sleep(0.01)
        path.unlink()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await discovery.close()

    asyncio.run(main())
    assert table.open is False
    assert path.exists()
