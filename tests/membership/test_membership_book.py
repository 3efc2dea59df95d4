"""A peer's book: what it takes from others, what it adds itself, and how it comes back from its store."""

import pytest
from membership_world import START, History, people, person

from coterie.errors import MembershipError
from coterie.identity import TransportKey
from coterie.ledger.records import Record
from coterie.protocols.membership import Book, book

ANN, BOB, CAT, DAN = people("ann", "bob", "cat", "dan")


class Desk:
    """A book with a clock that is set by hand and a list for a store."""

    def __init__(self, lab: History, stored=()):
        self.time, self.stored = START + 10_000_000, list(stored)
        self.book = Book(lab.genesis, lambda: self.time, self.stored.append, self.stored)
        for record in lab.records:
            self.book.offer(record)


def test_what_is_offered_is_kept_once_and_stored_before_anybody_hears_of_it():
    lab = History(ANN)
    desk, heard = Desk(lab), []
    desk.book.watchers.append(lambda: heard.append(len(desk.stored)))
    record = lab.admit(ANN, BOB)
    assert desk.book.offer(record) == "kept"
    assert desk.book.offer(record) == "known"
    assert desk.stored == [record]
    assert heard == [1]
    assert desk.book.membership.is_member(BOB.id)
    assert [node.record for node in desk.book.log(0, 10)] == [record]


def test_what_its_store_refuses_is_not_believed():
    lab = History(ANN)
    record = lab.admit(ANN, BOB)

    def full(record):
        raise OSError(28, "No space left on device")

    made = Book(lab.genesis, lambda: record.time, full)
    with pytest.raises(OSError, match="No space"):
        made.offer(record)
    assert not made.membership.is_member(BOB.id)
    assert not made.has(record.id)


def test_it_comes_back_from_its_store_as_it_was_whatever_the_order():
    lab = History(ANN, admit="any")
    desk = Desk(lab)
    for host, guest in ((ANN, BOB), (BOB, CAT), (CAT, DAN)):
        desk.book.add(desk.book.draft(host.identity, lab.admission(host, guest)))
    again = Desk(lab, reversed(desk.stored))
    assert again.book.membership == desk.book.membership
    torn = Desk(lab, desk.stored[1:])
    assert lab.names(torn.book.membership) == {"ann"}
    assert torn.book.offer(desk.stored[0]) == "kept"
    assert torn.book.membership == desk.book.membership
    assert torn.book.size == 3


def test_a_record_without_parents_is_not_kept():
    lab = History(ANN)
    lab.admit(ANN, BOB)
    late = lab.admit(ANN, CAT)
    desk = Desk(History(ANN))
    assert desk.book.offer(late) == "waiting"
    assert desk.stored == []
    assert desk.book.membership.waiting == {}


def test_a_record_from_the_future_is_not_kept_yet():
    lab = History(ANN)
    desk = Desk(lab)
    record = lab.admit(ANN, BOB, time=desk.time + book.SKEW_MS + 1)
    assert desk.book.offer(record) == "early"
    assert desk.stored == []
    desk.time += 1
    assert desk.book.offer(record) == "kept"


def test_ones_own_records_are_never_before_what_they_follow():
    lab = History(ANN)
    desk = Desk(lab)
    lab.admit(ANN, BOB, time=desk.time + 1000)
    desk.book.offer(lab.records[0])
    assert desk.book.leave(BOB.identity).time == desk.time + 1000


def test_junk_is_refused_with_its_reason_and_leaves_nothing():
    lab = History(ANN)
    desk = Desk(lab)
    with pytest.raises(MembershipError, match="had not been admitted"):
        desk.book.offer(lab.admit(CAT, BOB))
    with pytest.raises(MembershipError, match="too long"):
        desk.book.offer(
            Record.make(ANN.identity, "leave", {"reason": "x" * book.MOST_BYTES}, [lab.genesis.id], START + 1)
        )
    assert desk.stored == []
    assert not desk.book.replay.graph.refused


def test_what_would_not_count_is_not_signed():
    lab = History(ANN)
    desk = Desk(lab)
    desk.book.add(desk.book.draft(ANN.identity, lab.admission(ANN, BOB)))
    for attempt in (
        lambda: desk.book.expel(BOB.identity, ANN.id),
        lambda: desk.book.expel(ANN.identity, CAT.id),
        lambda: desk.book.draft(BOB.identity, lab.admission(BOB, CAT)),
        lambda: desk.book.leave(CAT.identity),
        lambda: desk.book.renew(BOB.identity, CAT.certificate),
        lambda: desk.book.countersign(ANN.identity, desk.stored[0].id),
    ):
        with pytest.raises(MembershipError, match="would not count"):
            attempt()
    assert len(desk.stored) == 1


def test_what_a_member_does_all_its_life():
    lab = History(ANN, admit="quorum", expel="quorum", quorum=2)
    desk = Desk(lab)
    desk.book.add(desk.book.draft(ANN.identity, lab.admission(ANN, BOB)))
    asked = desk.book.draft(BOB.identity, lab.admission(BOB, CAT))
    desk.book.add(asked)
    assert desk.book.membership.pending
    desk.book.countersign(ANN.identity, asked.id)
    new = TransportKey.new(CAT.identity).certificate
    desk.book.renew(CAT.identity, new)
    assert desk.book.membership.members[CAT.id].certificates == (new, CAT.certificate)
    out = desk.book.expel(BOB.identity, CAT.id, "gone")
    desk.book.countersign(ANN.identity, out.id)
    assert lab.names(desk.book.membership) == {"ann", "bob"}
    desk.book.leave(BOB.identity)
    assert lab.names(desk.book.membership) == {"ann"}
    assert [record.parents for record in desk.stored[1:]] == [(before.id,) for before in desk.stored[:-1]]


def test_a_flood_is_cut_off_and_ends_with_the_expulsion(monkeypatch):
    monkeypatch.setattr(book, "MOST_OF_ONE", 5)
    lab = History(ANN)
    admitted = [lab.admit(ANN, BOB), lab.admit(ANN, CAT)]
    desk = Desk(lab)
    flood = [lab.renew(BOB, admitted[-1], certificate=BOB.certificate, time=admitted[-1].time + n) for n in range(8)]
    assert [desk.book.offer(record) for record in flood] == ["kept"] * 5 + ["full"] * 3
    others = lab.renew(CAT, admitted[-1])
    assert desk.book.offer(others) == "kept", "the flood shuts out nobody else"
    assert desk.book.offer(flood[5], cited=True) == "kept"
    out = lab.expel(ANN, BOB, *flood[:6])
    assert desk.book.offer(out) == "kept"
    assert desk.book.offer(flood[6]) == "kept", "what others have followed is not held against its author any more"
    monkeypatch.setattr(book, "MOST_RECORDS", desk.book.size + 1)
    assert desk.book.offer(lab.renew(CAT, out)) == "kept", "what the expelled has left takes no room"
    monkeypatch.setattr(book, "MOST_LOG", desk.book.size + 1)
    assert desk.book.offer(lab.renew(CAT, out)) == "full"


def test_two_that_lift_each_others_shares_fill_the_book_and_are_expelled_all_the_same(monkeypatch):
    monkeypatch.setattr(book, "MOST_OF_ONE", 5)
    monkeypatch.setattr(book, "MOST_RECORDS", 40)
    lab = History(ANN)
    lab.admit(ANN, BOB)
    lab.admit(ANN, DAN)
    last = admitted = lab.admit(ANN, CAT)
    desk = Desk(lab)
    outcomes = []
    while "full" not in outcomes:
        who = (BOB, CAT)[len(outcomes) % 2]
        last = lab.renew(who, last, certificate=who.certificate, time=last.time + 1)
        outcomes.append(desk.book.offer(last))
    assert len(outcomes) > 30
    assert desk.book.offer(lab.renew(DAN, admitted)) == "full"
    for who in (BOB, CAT):
        assert desk.book.offer(lab.expel(ANN, who, admitted)) == "kept"
    assert set(desk.book.membership.expelled) == {BOB.id, CAT.id}
    assert desk.book.offer(lab.renew(DAN, admitted)) == "kept"


def test_many_heads_are_brought_together():
    lab = History(ANN)
    first = lab.admit(ANN, person("bob"))
    for number in range(100):
        lab.renew(BOB, first, certificate=BOB.certificate, time=first.time + number)
    desk = Desk(lab)
    assert len(desk.book.replay.graph.heads) == 100
    desk.book.renew(ANN.identity, ANN.certificate)
    assert len(desk.book.replay.graph.heads) == 37
    desk.book.renew(ANN.identity, ANN.certificate)
    assert len(desk.book.replay.graph.heads) == 1
