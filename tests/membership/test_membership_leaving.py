"""Leaving: who may, what it ends, and what it does not."""

import pytest
from membership_world import START, History, people

from coterie.errors import MembershipError
from coterie.protocols.membership import Book, leave_of, require_leave, sign_leave

ANN, BOB, CAT, DAN, EVE = people("ann", "bob", "cat", "dan", "eve")


def history(*members, **rules) -> History:
    lab = History(ANN, **rules)
    for member in members:
        lab.admit(ANN, member)
    return lab


def book_of(lab) -> Book:
    return Book(lab.genesis, lambda: START + 1_000_000, lambda record: None, lab.records)


def test_one_who_leaves_signs_a_record_that_is_found_again():
    book = book_of(history(BOB, CAT))
    assert leave_of(book, BOB.id) is None
    record = sign_leave(book, BOB.identity)
    assert (record.kind, record.author) == ("leave", BOB.id)
    assert leave_of(book, BOB.id) == record
    assert leave_of(book, CAT.id) is None
    with pytest.raises(MembershipError, match="has left already"):
        sign_leave(book, BOB.identity)
    assert set(book.membership.members) == {ANN.id, CAT.id}


def test_looking_whether_one_may_leave_signs_nothing():
    book = book_of(history(BOB))
    require_leave(book, BOB.identity)
    assert book.size == 1


def test_who_is_no_member_has_nothing_to_leave():
    lab = history(BOB, CAT, quorum=2, admit="founder")
    lab.expel(ANN, CAT)
    for who, why in ((CAT, "was expelled"), (DAN, "no member yet")):
        with pytest.raises(MembershipError, match=why):
            sign_leave(book_of(lab), who.identity)


def test_the_last_member_stays_and_is_told_why():
    lab = history(BOB)
    lab.leave(BOB)
    with pytest.raises(MembershipError, match="the only member") as caught:
        sign_leave(book_of(lab), ANN.identity)
    assert "invite them first" in caught.value.remedy


@pytest.mark.parametrize("admit", ["founder", "quorum", "any"])
def test_when_the_founder_has_left_somebody_can_still_admit(admit):
    """Whatever the policy: so nobody but the last member need be kept."""
    lab = history(BOB, CAT, admit=admit) if admit != "quorum" else History(ANN, admit=admit)
    if admit == "quorum":
        lab.admit(ANN, BOB)
        lab.countersign(BOB, lab.admit(ANN, CAT))
    lab.leave(ANN)
    record = lab.admit(BOB, DAN)
    if admit != "any":
        assert "dan" not in lab.names()
        lab.countersign(CAT, record)
    assert lab.names() == {"bob", "cat", "dan"}


def test_a_lone_voter_that_the_founder_leaves_behind_admits_alone():
    lab = history(BOB)
    lab.leave(ANN)
    lab.admit(BOB, CAT)
    assert lab.names() == {"bob", "cat"}


def test_expulsion_wins_over_a_leave_before_beside_and_after_it():
    for order in ("before", "beside", "after"):
        lab = history(BOB, CAT)
        stem = lab.records[-1]
        if order == "before":
            lab.leave(BOB)
            lab.expel(ANN, BOB)
        elif order == "beside":
            lab.leave(BOB, stem)
            lab.expel(ANN, BOB, stem)
        else:
            lab.expel(ANN, BOB)
            lab.leave(BOB)
        assert BOB.id in lab.membership.expelled, order
        assert lab.membership.left == (), order
        lab.admit(ANN, BOB)  # its key is burnt
        assert lab.names() == {"ann", "cat"}, order


def test_the_seat_is_free_for_one_who_knows_of_the_leave():
    lab = history(BOB, CAT, seats=3)
    full = lab.records[-1]
    lab.leave(BOB)
    late = lab.admit(ANN, DAN)
    assert lab.names() == {"ann", "cat", "dan"}
    unaware = lab.admit(ANN, EVE, full)
    assert lab.names() >= {"ann", "cat"} and len(lab.names()) == 3
    assert bool(lab.why(late)) != bool(lab.why(unaware))


def test_whom_a_leaver_has_admitted_stays():
    lab = history(BOB, admit="any")
    lab.admit(BOB, CAT)
    lab.leave(BOB)
    assert lab.names() == {"ann", "cat"}
    assert "its author was no member" in lab.why(lab.admit(BOB, DAN))


def test_the_last_of_several_leaves_is_the_one_to_hand_on():
    lab = history(BOB, CAT)
    first = lab.leave(BOB)
    lab.admit(ANN, BOB)
    book = book_of(lab)
    assert leave_of(book, BOB.id) is None
    second = sign_leave(book, BOB.identity)
    assert second != first
    assert leave_of(book, BOB.id) == second
