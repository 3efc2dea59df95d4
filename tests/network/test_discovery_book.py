"""The address book: who is believed, what is tried first, and that nobody can fill it; and its file."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import OutputError
from coterie.identity import Identity
from coterie.network.discovery import Address, AddressBook, Announcement, BookLimits, Source, load_book, save_book
from coterie.network.discovery.announcement import VALID_SECONDS

GENESIS = b"g" * 32
NOW = 1_800_000_000.0
PEERS = [Identity.from_seed(bytes([n]) * 32) for n in range(8)]
ANNA, BERT, CARL, *_ = (identity.id for identity in PEERS)
DAY = 86400.0


def at(number, host="h.example"):
    return Address.of(host, number)


def announcement(who=0, ports=(1,), sequence=1, time=NOW):
    return Announcement.make(PEERS[who], GENESIS, [at(port) for port in ports], sequence, time)


def ports(book, peer=ANNA):
    return [address.port for address in book.candidates(peer)]


def test_candidates_best_first():
    book = AddressBook()
    book.heard(ANNA, at(4), BERT, NOW + 3)
    book.announced(announcement(ports=(3,)), NOW + 2, Source.TABLE)
    book.configure(ANNA, at(1), NOW)
    book.announced(announcement(ports=(3, 2), sequence=2), NOW + 1)
    assert ports(book) == [1, 2, 3, 4]  # 3 is signed now as well: later said, but not better; by number
    book.worked(ANNA, at(4), NOW + 4)
    assert ports(book) == [4, 1, 2, 3]
    book.failed(ANNA, at(4), NOW + 5)
    book.failed(ANNA, at(1), NOW + 5)
    assert ports(book) == [2, 3, 4, 1]
    book.failed(ANNA, at(1), NOW + 6)
    book.worked(ANNA, at(4), NOW + 7)
    assert ports(book) == [4, 2, 3, 1]
    assert ports(book, BERT) == []


def test_a_later_announcement_replaces_the_earlier():
    book = AddressBook()
    assert book.announced(announcement(ports=(1, 2)), NOW)
    book.configure(ANNA, at(3), NOW)
    book.heard(ANNA, at(4), BERT, NOW)
    assert book.announced(announcement(ports=(2, 5), sequence=2), NOW + 1)
    assert sorted(ports(book)) == [2, 3, 4, 5]


def test_an_older_or_equal_sequence_changes_nothing():
    book = AddressBook()
    book.announced(announcement(ports=(1,), sequence=7), NOW)
    for sequence in (6, 7):
        assert not book.announced(announcement(ports=(9,), sequence=sequence), NOW + 1)
    assert ports(book) == [1]
    assert book.announcements[ANNA].sequence == 7


def test_hearsay_does_not_weaken_what_is_known():
    book = AddressBook()
    book.announced(announcement(), NOW)
    book.failed(ANNA, at(1), NOW)
    assert not book.heard(ANNA, at(1), BERT, NOW + 1)
    entry = book.entries[ANNA][at(1)]
    assert (entry.source, entry.said, entry.failures) == (Source.SIGNED, NOW, 1)


def test_addresses_within_are_not_taken_from_others():
    inside = Address.parse("127.0.0.1:22")
    for book, takes in ((AddressBook(), False), (AddressBook(private_networks=True), True)):
        assert book.heard(ANNA, inside, BERT, NOW) is takes
        signed = Announcement.make(PEERS[1], GENESIS, [Address.parse("10.0.0.1:22"), at(1)], 1, NOW)
        book.announced(signed, NOW)
        assert len(book.candidates(BERT)) == 1 + takes
        book.configure(CARL, inside, NOW)
        assert book.candidates(CARL) == [inside]


# Flooding


def test_one_teller_has_so_much_room():
    book = AddressBook(limits=BookLimits(hearsay_per_teller=10, addresses_per_peer=100))
    book.heard(ANNA, at(1), CARL, NOW)
    for port in range(2, 40):
        book.heard(ANNA, at(port), BERT, NOW + port)
    assert sorted(ports(book)) == [1, *range(30, 40)]


def test_what_worked_stays_when_its_teller_floods():
    book = AddressBook(limits=BookLimits(hearsay_per_teller=3))
    book.heard(ANNA, at(1), BERT, NOW)
    book.worked(ANNA, at(1), NOW)
    for port in range(2, 10):
        book.heard(ANNA, at(port), BERT, NOW + port)
    assert ports(book)[0] == 1
    assert len(ports(book)) == 4


def test_a_flood_about_one_peer_drives_out_only_hearsay():
    limits = BookLimits(addresses_per_peer=6)
    book = AddressBook(limits=limits)
    book.configure(ANNA, at(1), NOW)
    book.announced(announcement(ports=(2, 3)), NOW)
    book.worked(ANNA, at(4), NOW)
    for address in (at(1), at(2), at(3)):
        book.failed(ANNA, address, NOW)
    for n, teller in enumerate((BERT, CARL) * 50):
        book.heard(ANNA, at(100 + n), teller, NOW + n)
    assert {1, 2, 3, 4} < set(ports(book))
    assert len(ports(book)) == 1 + limits.addresses_per_peer


def test_a_flood_of_peers():
    limits = BookLimits(peers=5)
    book = AddressBook(limits=limits)
    book.configure(ANNA, at(1), NOW)
    book.announced(announcement(who=1), NOW)
    for n in range(2, 200):
        book.heard(f"{n:064x}", at(1), CARL, NOW + n)
    assert len(book.peers()) == 5
    assert {ANNA, BERT} <= set(book.peers())
    for n in range(2, 7):
        book.announced(announcement(who=n), NOW)
    assert len(book.peers()) == 5
    assert not book.announced(announcement(who=7), NOW)
    assert not book.heard(f"{9:064x}", at(1), CARL, NOW)


tellers = st.sampled_from([ANNA, BERT, CARL, None])
moves = st.lists(
    st.one_of(
        st.tuples(st.just("heard"), tellers, st.integers(1, 9)),
        st.tuples(st.just("worked"), st.integers(1, 9)),
        st.tuples(st.just("failed"), st.integers(1, 9)),
        st.tuples(st.just("configure"), st.integers(1, 2)),
        st.tuples(st.just("announced"), st.integers(1, 9)),
        st.tuples(st.just("prune"), st.floats(0, 40 * DAY)),
        st.tuples(st.just("forget"), tellers),
    ),
    max_size=40,
)
SIGNED = {port: announcement(who=0, ports=(port,), sequence=port) for port in range(1, 10)}


@settings(max_examples=200, deadline=None)
@given(moves)
def test_limits_hold_whatever_happens(steps):
    limits = BookLimits(peers=2, addresses_per_peer=4, hearsay_per_teller=3, failures=2)
    book, now, peers = AddressBook(limits=limits), NOW, [ANNA, BERT, CARL]
    for n, (move, *words) in enumerate(steps):
        peer, now = peers[n % 3], now + 1
        if move == "heard":
            book.heard(peer, at(words[1]), words[0], now)
        elif move == "announced":
            book.announced(SIGNED[words[0]], now)
        elif move == "prune":
            book.prune(now := now + words[0])
        elif move == "forget":
            book.forget(words[0] or ANNA)
        else:
            getattr(book, move)(peer, at(words[0]), now)
        kept = [(p, a, e) for p, entries in book.entries.items() for a, e in entries.items()]
        assert all(book.entries.values())
        for p in book.entries:
            assert sum(e.source is not Source.CONFIGURED for e in book.entries[p].values()) <= 4
        told = [(e.teller, p, a) for p, a, e in kept if e.teller is not None]
        assert {(t, *key) for t, keys in book._told.items() for key in keys} == set(told)
        for teller in peers:
            assert sum(t == teller for t, _, _ in told) <= 3
        configured = {p for p, _, e in kept if e.source is Source.CONFIGURED}
        assert len((set(book.entries) | set(book.announcements)) - configured) <= 2


# Ageing


def test_hearsay_that_fails_is_forgotten():
    book = AddressBook(limits=BookLimits(failures=3))
    book.heard(ANNA, at(1), BERT, NOW)
    book.announced(announcement(ports=(2,)), NOW)
    for n in range(5):
        book.failed(ANNA, at(1), NOW + n)
        book.failed(ANNA, at(2), NOW + n)
        assert (1 in ports(book)) is (n < 2)
    assert ports(book) == [2]
    assert book.unreached() == [ANNA]
    book.worked(ANNA, at(2), NOW + 9)
    assert book.unreached() == []


def test_prune():
    book = AddressBook()
    book.configure(ANNA, at(1), NOW)
    book.announced(announcement(ports=(2,)), NOW)
    book.heard(ANNA, at(3), BERT, NOW)
    book.worked(ANNA, at(4), NOW)
    book.prune(NOW + DAY - 1)
    assert sorted(ports(book)) == [1, 2, 3, 4]
    book.prune(NOW + DAY + 1)
    assert sorted(ports(book)) == [1, 2, 4]
    book.prune(NOW + VALID_SECONDS + 1)
    assert sorted(ports(book)) == [1, 4]
    assert book.announcements == {}
    book.prune(NOW + 31 * DAY)
    assert sorted(ports(book)) == [1]


def test_forget_takes_the_word_of_an_expelled_member_too():
    book = AddressBook()
    book.announced(announcement(who=1), NOW)
    book.heard(ANNA, at(1), BERT, NOW)
    book.heard(ANNA, at(2), CARL, NOW)
    book.forget(BERT)
    assert book.peers() == [ANNA]
    assert ports(book) == [2]
    assert book.announcements == {}


# The file


def filled():
    book = AddressBook()
    book.configure(ANNA, at(1), NOW)
    book.announced(announcement(ports=(2, 3)), NOW)
    book.announced(announcement(who=1), NOW)
    book.worked(ANNA, at(3), NOW)
    book.failed(BERT, at(1), NOW)
    book.heard(CARL, at(5), BERT, NOW)
    return book


def test_saved_and_loaded(tmp_path):
    path = tmp_path / "inner" / "addresses.json"
    save_book(filled(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    book = AddressBook()
    load_book(book, path, GENESIS, NOW + 1)
    assert ports(book) == [3, 2, 1]  # what was configured is hearsay until it is configured again
    assert book.announcements == filled().announcements
    assert book.entries[ANNA][at(3)].worked == NOW
    assert book.entries[BERT][at(1)].failures == 1
    assert book.entries[CARL][at(5)].teller == BERT
    assert [p.name for p in path.parent.iterdir()] == ["addresses.json"]


def test_loaded_later_or_in_another_federation(tmp_path, caplog):
    path = tmp_path / "addresses.json"
    save_book(filled(), path)
    for genesis, now in ((GENESIS, NOW + VALID_SECONDS + 1), (b"h" * 32, NOW)):
        book = AddressBook()
        with caplog.at_level(logging.WARNING):
            load_book(book, path, genesis, now)
        assert book.announcements == {}
        assert "2 entries" in caplog.text
        caplog.clear()


def test_times_of_the_future_are_taken_as_now(tmp_path):
    path = tmp_path / "addresses.json"
    save_book(filled(), path)
    book = AddressBook()
    load_book(book, path, GENESIS, NOW - 100)
    entry = book.entries[ANNA][at(3)]
    assert (entry.said, entry.worked) == (NOW - 100, NOW - 100)


def test_no_file_is_an_empty_book(tmp_path, caplog):
    book = AddressBook()
    load_book(book, tmp_path / "none", GENESIS, NOW)
    assert (book.entries, caplog.text) == ({}, "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 5000,
        b'{"schema": "coterie.addresses/2", "announcements": [], "addresses": []}',
        b'{"schema": "coterie.addresses/1", "announcements": ["%%"], "addresses": []}',
        b'{"schema": "coterie.addresses/1", "announcements": [], "addresses": [{"peer": 1}]}',
    ],
)
def test_a_bad_file_is_a_warning_and_an_empty_book(tmp_path, caplog, content):
    path = tmp_path / "addresses.json"
    path.write_bytes(content)
    book = AddressBook()
    with caplog.at_level(logging.WARNING):
        load_book(book, path, GENESIS, NOW)
    assert book.entries == {}
    assert str(path) in caplog.text


def test_bad_lines_of_a_file_are_left_out(tmp_path, caplog):
    path = tmp_path / "addresses.json"
    save_book(filled(), path)
    content = json.loads(path.read_bytes())
    content["addresses"] += [
        content["addresses"][0] | {"address": "h.example:99999"},
        content["addresses"][0] | {"peer": "nobody"},
        content["addresses"][0] | {"address": "127.0.0.1:22", "source": 0},
    ]
    content["announcements"].append("AAAA")
    path.write_text(json.dumps(content))
    book = AddressBook()
    with caplog.at_level(logging.WARNING):
        load_book(book, path, GENESIS, NOW)
    assert sorted(ports(book)) == [1, 2, 3]
    assert sorted(book.peers()) == sorted([ANNA, BERT, CARL])
    assert "left out" in caplog.text


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_damaged_file_never_raises(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    save_book(filled(), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    load_book(AddressBook(), path, GENESIS, NOW)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_book(filled(), tmp_path / "file" / "addresses.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        save_book(filled(), tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
