"""Replay, rule by rule: who is in, who is out, and why a record does not count."""

import itertools

import pytest
from membership_world import START, History, Person, people, person

from coterie.errors import MembershipError
from coterie.identity import TransportKey
from coterie.ledger.records import Record
from coterie.protocols.membership import Replay
from coterie.protocols.membership.judge import MOST_SPONSORS

ANN, BOB, CAT, DAN, EVE, FAY = people("ann", "bob", "cat", "dan", "eve", "fay")


def history(*members: Person, **rules) -> History:
    """Ann's federation with ``members``, admitted by her one after the other."""
    made = History(ANN, **rules)
    for member in members:
        made.admit(ANN, member)
    return made


# Admission


def test_a_founder_is_a_member_from_the_start():
    lab = History(ANN, stakes={ANN.id: 7})
    (member,) = lab.membership.members.values()
    assert (member.peer, member.name, member.stake, member.since) == (ANN.id, "ann", 7, START)
    assert member.certificates == (ANN.certificate,)
    assert lab.membership.founder == ANN.id
    assert lab.membership.federation == lab.genesis.id


def test_an_admitted_peer_is_a_member_with_what_its_admission_says():
    lab = History(ANN, stakes={BOB.id: 40}, stake=3)
    record = lab.admit(ANN, BOB, stake=40)
    lab.admit(ANN, CAT, stake=3)
    bob, cat = lab.membership.members[BOB.id], lab.membership.members[CAT.id]
    assert (bob.name, bob.stake, bob.since, bob.admitted_by) == ("bob", 40, record.time, ANN.id)
    assert bob.certificates == (BOB.certificate,)
    assert cat.stake == 3
    assert list(lab.membership.members) == [ANN.id, BOB.id, CAT.id]


def test_where_the_founder_admits_others_do_not():
    lab = history(BOB)
    record = lab.admit(BOB, CAT)
    assert lab.names() == {"ann", "bob"}
    assert lab.why(record) == "only the founder may do that"


def test_where_any_may_admit_guests_may_bring_guests_but_have_no_vote():
    lab = history(BOB, admit="any")
    lab.admit(BOB, CAT)
    lab.admit(CAT, DAN)
    assert lab.names() == {"ann", "bob", "cat", "dan"}
    assert {m.name for m in lab.membership.members.values() if m.voter} == {"ann", "bob"}


def test_a_line_of_sponsors_has_an_end():
    lab = history(admit="any")
    line = [ANN, *(person(f"guest-{n}") for n in range(MOST_SPONSORS + 2))]
    records = [lab.admit(host, guest) for host, guest in itertools.pairwise(line)]
    assert len(lab.membership.members) == len(line) - 1
    assert "sponsors away" in lab.why(records[-1])


def test_the_founder_may_confirm_a_guest_who_then_has_a_vote():
    lab = history(BOB, admit="any")
    lab.admit(BOB, CAT)
    confirmed = lab.admit(ANN, CAT)
    assert lab.membership.members[CAT.id].voter
    assert "already" in lab.why(confirmed), "its seat is the one it had"


def test_a_quorum_admits_when_enough_have_signed():
    lab = history(admit="quorum", quorum=3)
    first = lab.admit(ANN, BOB)
    assert lab.names() == {"ann", "bob"}, "the founder is the only voter there is"
    second = lab.admit(ANN, CAT)
    pending = lab.membership.pending[second.id]
    assert (pending.signed, pending.needed) == (1, 2)
    lab.countersign(BOB, second)
    assert lab.names() == {"ann", "bob", "cat"}
    third = lab.admit(BOB, DAN)
    lab.countersign(ANN, third)
    assert lab.names() == {"ann", "bob", "cat"}
    assert lab.membership.pending[third.id].needed == 3
    lab.countersign(CAT, third)
    assert lab.names() == {"ann", "bob", "cat", "dan"}
    assert not lab.membership.pending
    assert lab.why(first) is None


def test_signing_twice_is_signing_once():
    lab = history(admit="quorum", quorum=3)
    for newcomer, others in ((BOB, []), (CAT, [BOB])):
        record = lab.admit(ANN, newcomer)
        for other in others:
            lab.countersign(other, record)
    record = lab.admit(ANN, DAN)
    lab.countersign(BOB, record)
    lab.countersign(BOB, record)
    assert lab.membership.pending[record.id].signed == 2
    assert "dan" not in lab.names()


def test_whom_an_incomplete_quorum_admitted_can_do_nothing_yet():
    lab = history(admit="quorum", quorum=2)
    lab.admit(ANN, BOB)
    proposal = lab.admit(ANN, CAT)
    early = lab.admit(CAT, DAN, proposal)
    signed = lab.countersign(BOB, early)
    lab.countersign(BOB, proposal, proposal)
    assert lab.names() == {"ann", "bob", "cat"}
    assert lab.why(early) == "its author was no member with a vote"
    assert lab.why(signed) is not None


def test_it_is_no_member_either_for_one_who_does_not_know_that_enough_have_signed():
    lab = history(admit="quorum", quorum=2)
    lab.admit(ANN, BOB)
    proposal = lab.admit(ANN, CAT)
    lab.countersign(BOB, proposal, proposal)
    beside = lab.renew(ANN, lab.renew(ANN, proposal))
    early = lab.admit(CAT, DAN, beside)
    assert "cat" in lab.names()
    assert lab.why(early) == "its author was no member with a vote"


def test_who_came_after_a_proposal_has_no_vote_on_it():
    lab = history(BOB, CAT, expel="quorum", quorum=2)
    proposal = lab.expel(BOB, CAT)
    lab.admit(ANN, DAN)
    late = lab.countersign(DAN, proposal)
    assert "cat" in lab.names()
    assert lab.why(late) == "its author had no vote on it"


# Expulsion


def test_an_expelled_member_is_out_with_a_reason_and_for_good():
    lab = history(BOB)
    record = lab.expel(ANN, BOB, reason="sold data")
    again = lab.admit(ANN, BOB)
    assert lab.names() == {"ann"}
    removal = lab.membership.expelled[BOB.id]
    assert (removal.by, removal.record, removal.reason) == (ANN.id, record.id, "sold data")
    assert "never admitted again" in lab.why(again)


def test_expulsion_wins_over_what_the_expelled_does_beside_it_and_spares_what_it_did_before():
    lab = history(BOB, admit="any")
    before = lab.admit(BOB, CAT)
    lab.admit(BOB, DAN, before)
    renewed = lab.renew(BOB, before)
    lab.expel(ANN, BOB, before)
    assert lab.names() == {"ann", "cat"}
    assert "expelled" in lab.why(lab.records[2])
    assert "expelled" in lab.why(renewed)


def test_a_fallen_admission_takes_along_what_its_peer_did():
    lab = history(BOB, admit="any")
    first = lab.records[0]
    fallen = lab.admit(BOB, CAT, first)
    lab.admit(CAT, DAN, fallen)
    lab.admit(DAN, EVE, lab.records[-1])
    assert lab.names() == {"ann", "bob", "cat", "dan", "eve"}
    lab.expel(ANN, BOB, first)
    assert lab.names() == {"ann"}


def test_what_follows_ones_own_expulsion_does_not_count():
    lab = history(BOB, admit="any")
    expelled = lab.expel(ANN, BOB)
    late = lab.admit(BOB, CAT, expelled)
    assert lab.names() == {"ann"}
    assert lab.why(late) == "its author was no member"


def test_a_quorum_expels_and_the_target_has_no_say():
    lab = history(BOB, CAT, DAN, expel="quorum", quorum=2)
    record = lab.expel(BOB, DAN)
    own = lab.countersign(DAN, record)
    assert "dan" in lab.names()
    assert lab.why(own) == "its author had no vote on it"
    lab.countersign(CAT, record)
    assert "dan" not in lab.names()


def test_an_expulsion_needs_all_signatures_even_where_voters_are_few():
    lab = history(BOB, expel="quorum", quorum=3)
    record = lab.expel(ANN, BOB)
    assert lab.membership.pending[record.id].needed == 3
    assert "bob" in lab.names()


def test_two_quorums_that_expel_each_other_are_both_heeded():
    lab = history(BOB, CAT, DAN, EVE, expel="quorum", quorum=2)
    base = lab.records[-1]
    one = lab.expel(BOB, DAN, base)
    lab.countersign(CAT, one, one)
    two = lab.expel(DAN, BOB, base)
    lab.countersign(EVE, two, two)
    assert lab.names() == {"ann", "cat", "eve"}


def test_a_voter_that_was_expelled_does_not_sign_any_more():
    lab = history(BOB, CAT, DAN, expel="quorum", quorum=2)
    proposal = lab.expel(CAT, DAN)
    lab.expel(ANN, BOB, lab.records[2])
    lab.countersign(CAT, lab.records[-1], lab.records[-1])
    assert "bob" not in lab.names()
    late = lab.countersign(BOB, proposal)
    assert "dan" in lab.names()
    assert lab.why(late) == "its author had no vote on it"


def test_guests_of_members_have_no_vote_on_expulsions():
    lab = history(BOB, CAT, admit="any", expel="quorum", quorum=2)
    friends = people("friend-1", "friend-2", "friend-3")
    for friend in friends:
        lab.admit(BOB, friend)
    proposal = lab.expel(BOB, CAT)
    for friend in friends:
        lab.countersign(friend, proposal)
    own = lab.expel(friends[0], CAT)
    assert "cat" in lab.names()
    assert lab.why(own) == "its author was no member with a vote"


def test_the_founder_cannot_be_expelled():
    lab = history(BOB, CAT, expel="quorum", quorum=2)
    record = lab.expel(BOB, ANN)
    lab.countersign(CAT, record)
    assert lab.membership.founder == ANN.id
    assert lab.why(record) == "only recovery keys can replace the founder"


# Leaving


def test_one_who_leaves_is_out_and_may_come_back():
    lab = history(BOB)
    lab.leave(BOB)
    assert lab.names() == {"ann"}
    assert lab.membership.left == (BOB.id,)
    assert not lab.membership.expelled
    lab.admit(ANN, BOB)
    assert lab.names() == {"ann", "bob"}


def test_a_leave_ends_also_an_admission_beside_it():
    lab = history(BOB)
    first = lab.records[0]
    lab.admit(ANN, BOB, lab.genesis)
    lab.leave(BOB, first)
    assert lab.names() == {"ann"}


def test_when_the_founder_leaves_a_quorum_does_what_was_the_founders():
    lab = history(BOB, CAT, DAN, quorum=2)
    lab.leave(ANN)
    assert lab.membership.founder is None
    record = lab.admit(BOB, EVE)
    assert "eve" not in lab.names()
    lab.countersign(CAT, record)
    assert lab.names() == {"bob", "cat", "dan", "eve"}
    out = lab.expel(EVE, DAN)
    lab.countersign(BOB, out)
    assert lab.names() == {"bob", "cat", "eve"}
    assert lab.why(lab.admit(ANN, FAY)) == "its author was no member with a vote"


# Certificates


def test_a_renewed_certificate_comes_first_and_the_one_before_is_still_known():
    lab = history(BOB)
    certificates = [TransportKey.new(BOB.identity).certificate for _ in range(3)]
    for certificate in certificates:
        lab.renew(BOB, certificate=certificate)
    assert lab.membership.members[BOB.id].certificates == (certificates[2], certificates[1])


def test_nobody_renews_anothers_certificate():
    lab = history(BOB, CAT)
    with_foreign = lab.renew(CAT, certificate=BOB.certificate)
    assert "its certificate is refused" in lab.why(with_foreign)
    assert lab.membership.members[CAT.id].certificates == (CAT.certificate,)


# Lost keys


def test_a_successor_takes_seat_and_stake_and_the_thief_can_undo_nothing():
    new = person("bob-again")
    lab = History(ANN, stakes={BOB.id: 40}, admit="any", seats=3)
    lab.admit(ANN, BOB, stake=40)
    lab.admit(ANN, CAT)
    seen = lab.records[-1]
    lab.succeed(ANN, BOB, new, reason="laptop stolen")
    assert lab.names() == {"ann", "cat", "bob-again"}
    assert lab.membership.members[new.id].stake == 40
    assert lab.membership.members[new.id].voter
    assert lab.membership.expelled[BOB.id].successor == new.id
    thief = BOB
    for parent in (seen, lab.records[-1], lab.records[0]):
        for attempt in (
            lab.succeed(thief, new, person("thief"), parent),
            lab.expel(thief, new, parent),
            lab.admit(thief, person("thief"), parent),
            lab.renew(thief, parent),
            lab.leave(thief, parent),
            lab.expel(thief, ANN, parent),
        ):
            assert lab.why(attempt) is not None
    assert lab.names() == {"ann", "cat", "bob-again"}


def test_a_successor_may_itself_have_one():
    lab = History(ANN, stakes={BOB.id: 40})
    lab.admit(ANN, BOB, stake=40)
    lab.succeed(ANN, BOB, CAT)
    lab.succeed(ANN, CAT, DAN)
    assert lab.names() == {"ann", "dan"}
    assert lab.membership.members[DAN.id].stake == 40


def test_a_member_expelled_before_may_have_a_successor_too():
    lab = history(BOB)
    lab.expel(ANN, BOB)
    lab.succeed(ANN, BOB, CAT)
    assert lab.names() == {"ann", "cat"}


def test_of_two_successors_one_is_it():
    lab = history(BOB)
    base = lab.records[-1]
    one, two = lab.succeed(ANN, BOB, CAT, base), lab.succeed(ANN, BOB, DAN, base)
    assert len(lab.names() & {"cat", "dan"}) == 1
    assert {lab.why(one), lab.why(two)} == {None, "that peer has a successor already"}


def test_a_succession_needs_the_right_to_expel_as_well_as_to_admit():
    lab = history(BOB, CAT, admit="any", expel="founder")
    record = lab.succeed(BOB, CAT, person("takeover"))
    assert lab.why(record) == "only the founder may do that"
    lab = history(BOB, CAT, DAN, admit="founder", expel="quorum", quorum=2)
    record = lab.succeed(ANN, CAT, EVE)
    assert "cat" in lab.names()
    lab.countersign(DAN, record)
    assert lab.names() == {"ann", "bob", "dan", "eve"}


# Recovery keys


def test_recovery_keys_replace_a_founder_whose_key_was_stolen():
    safe, new = person("safe"), person("ann-again")
    lab = History(ANN, stakes={ANN.id: 9}, recovery=[safe], admit="quorum", expel="quorum", quorum=2)
    lab.admit(ANN, BOB)
    known = lab.countersign(ANN, lab.admit(BOB, CAT))
    sybils = people("sybil-1", "sybil-2", "sybil-3")
    last = lab.admit(ANN, sybils[0], lab.genesis)
    coup = lab.admit(ANN, sybils[1], last)
    coup = lab.countersign(sybils[0], coup, coup)
    out = lab.expel(sybils[0], BOB, coup, known)
    lab.countersign(sybils[1], out, out)
    assert "bob" not in lab.names(), "whoever has the founder's key can do this"
    lab.succeed(safe, ANN, new, known)
    assert lab.names() == {"bob", "cat", "ann-again"}
    assert lab.membership.founder == new.id
    assert lab.membership.members[new.id].stake == 9
    record = lab.admit(new, DAN)
    lab.countersign(BOB, record)
    assert "dan" in lab.names()


def test_more_than_half_of_the_recovery_keys_must_sign():
    keys, new = people("safe-1", "safe-2", "safe-3"), person("ann-again")
    lab = History(ANN, recovery=keys)
    lab.admit(ANN, BOB)
    record = lab.succeed(keys[0], ANN, new)
    assert (lab.membership.pending[record.id].signed, lab.membership.pending[record.id].needed) == (1, 2)
    own = lab.countersign(BOB, record)
    assert lab.why(own) == "only recovery keys sign that"
    assert lab.membership.founder == ANN.id
    lab.countersign(keys[2], record)
    assert lab.membership.founder == new.id
    lab.admit(new, CAT)
    assert lab.names() == {"ann-again", "bob", "cat"}
    late = lab.admit(ANN, DAN, lab.records[0])
    assert "recovery keys had removed its author" in lab.why(late)


def test_a_replaced_founder_signs_nothing_beside_its_replacement():
    safe, new = person("safe"), person("ann-again")
    lab = history(BOB, CAT, recovery=[safe], expel="quorum", quorum=2)
    proposal = lab.expel(BOB, CAT)
    lab.succeed(safe, ANN, new, proposal)
    beside = lab.countersign(ANN, proposal, proposal)
    assert lab.names() == {"ann-again", "bob", "cat"}
    assert lab.why(beside) == "its author had no vote on it"


def test_recovery_keys_do_nothing_else():
    safe = person("safe")
    lab = History(ANN, recovery=[safe], admit="any")
    lab.admit(ANN, BOB)
    records = [lab.admit(safe, CAT), lab.renew(safe), lab.leave(safe)]
    assert all(lab.why(record) for record in records)
    lab.expel(safe, BOB)
    assert lab.names() == {"ann"}
    twice = lab.expel(safe, BOB)
    assert lab.why(twice) == "recovery keys have removed that peer already"


def test_recovery_keys_may_expel_the_founder_and_leave_the_rest_to_a_quorum():
    safe = person("safe")
    lab = History(ANN, recovery=[safe])
    for newcomer in (BOB, CAT):
        lab.admit(ANN, newcomer)
    lab.expel(safe, ANN)
    assert lab.membership.founder is None
    record = lab.admit(BOB, DAN)
    lab.countersign(CAT, record)
    assert lab.names() == {"bob", "cat", "dan"}


# Seats


def test_there_are_no_more_members_than_seats():
    lab = history(BOB, seats=2)
    record = lab.admit(ANN, CAT)
    assert lab.names() == {"ann", "bob"}
    assert lab.why(record) == "no seat was free"
    lab.leave(BOB)
    assert lab.names() == {"ann"}, "who found no seat does not slip in later"
    lab.admit(ANN, CAT)
    assert lab.names() == {"ann", "cat"}
    lab.expel(ANN, CAT)
    lab.admit(ANN, DAN)
    assert lab.names() == {"ann", "dan"}


def test_admissions_beside_each_other_beyond_the_seats_are_settled_by_depth_and_id():
    lab = history(BOB, CAT, admit="any", seats=5)
    base = lab.records[-1]
    rivals = [lab.admit(host, guest, base) for host, guest in ((BOB, DAN), (CAT, EVE), (BOB, FAY))]
    winners = sorted(rivals, key=lambda record: record.id)[:2]
    losers = [record for record in rivals if record not in winners]
    assert {record.id for record in rivals} & set(lab.membership.rejected) == {losers[0].id}
    assert len(lab.membership.members) == 5


def test_whom_the_founder_has_seen_seated_is_not_unseated_by_an_admission_from_long_ago():
    lab = history(BOB, CAT, admit="any", seats=4)
    old = lab.records[-1]
    lab.renew(CAT)
    lab.admit(CAT, DAN)
    lab.renew(ANN)
    lab.admit(BOB, EVE, old)
    assert lab.names() == {"ann", "bob", "cat", "dan"}


def test_whom_a_member_unseats_has_the_seat_back_when_the_culprit_is_expelled():
    lab = history(BOB, CAT, admit="any", seats=4)
    old = lab.records[-1]
    lab.renew(CAT)
    last = lab.admit(CAT, DAN)
    lab.admit(BOB, EVE, old)
    assert lab.names() == {"ann", "bob", "cat", "eve"}
    lab.expel(ANN, BOB, last)
    assert lab.names() == {"ann", "cat", "dan"}


def test_the_guest_of_one_without_a_seat_has_none():
    lab = history(BOB, admit="any", seats=3)
    base = lab.records[-1]
    one, two = lab.admit(ANN, CAT, base), lab.admit(BOB, DAN, base)
    guest = lab.admit(DAN, EVE, two)
    lab.leave(CAT, one)
    assert lab.why(two) == "no seat was free"
    assert lab.why(guest) == "who admitted it had no seat"


# What is missing, and what waits


def test_a_record_without_its_parents_waits_and_then_counts():
    lab = history(BOB, CAT, DAN)
    replay = Replay(lab.genesis)
    assert [replay.add(record) for record in reversed(lab.records)] == ["waiting", "waiting", "kept"]
    assert lab.names(replay.membership()) == {"ann", "bob", "cat", "dan"}
    assert replay.membership() == lab.membership
    partial = lab.replay(lab.records[1:])
    assert partial.membership().waiting == {
        lab.records[1].id: (lab.records[0].id,),
        lab.records[2].id: (lab.records[1].id,),
    }
    assert lab.names(partial.membership()) == {"ann"}


def test_adding_twice_changes_nothing():
    lab = history(BOB)
    replay = lab.replay()
    before = replay.membership()
    assert replay.add(lab.records[0]) == "known"
    assert replay.membership() is before


def test_a_copy_goes_its_own_way():
    lab = history(BOB)
    replay = lab.replay()
    other = replay.copy()
    other.add(lab.admit(ANN, CAT))
    assert lab.names(other.membership()) == {"ann", "bob", "cat"}
    assert lab.names(replay.membership()) == {"ann", "bob"}


def test_a_replay_begins_with_genesis():
    lab = history(BOB)
    with pytest.raises(MembershipError, match="begins with a genesis record"):
        Replay(lab.records[0])
    other = Record.make(ANN.identity, "genesis", {"a": 1}, (), START)
    with pytest.raises(MembershipError, match="its content is wrong"):
        Replay(other)
