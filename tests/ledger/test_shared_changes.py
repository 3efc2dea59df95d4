"""Who votes when: joins, leaves, new keys, removals and evidence, two epochs later; nothing can be used twice."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, GENESIS, OTHER_GENESIS
from shared_worlds import BY_ID, PEERS, VRF, Writer, charter, identity

from coterie.errors import LedgerError
from coterie.identity import VrfKey
from coterie.ledger import Record
from coterie.ledger.shared import Accusation, Evidence, Join, Leave, Locked, NewKey, Removal, Vote, changes

A, B, C, D, E, F = (PEERS[number] for number in range(6))
LOCK = 3
"""Epochs, in the charter used here."""


def join(peer, until=50, weight=1, author=ANN):
    return changes.record(author, Join.make(peer, GENESIS, VRF[peer.id].public, weight, until), time=1)


def leave(peer, until):
    return changes.record(peer, Leave(genesis=GENESIS, until=until), time=1)


def new_key(old, new, until, author=None):
    return changes.record(author or old, NewKey.make(new, GENESIS, old.id, VRF[new.id].public, until), time=1)


def removal(peer, until, author=ANN):
    return changes.record(author, Removal(genesis=GENESIS, until=until, key=peer.id), time=1)


def evidence(peer, epoch, author=ANN, height=1):
    one = Vote.make(peer, GENESIS, epoch, height, "final", b"1" * 32)
    other = Vote.make(peer, GENESIS, epoch, height, "dummy")
    return changes.record(author, Accusation(evidence=Evidence.of(one, other).encode()), time=1)


def begun(weights=(1, 1, 1, 1)):
    return Writer(charter(weights, lock_epochs=LOCK).checkpoint)


def voting(state):
    return {BY_ID[voter.key]: voter.weight for voter in state.voters.members}


def following(state):
    return {BY_ID[voter.key]: voter.weight for voter in state.following.members}


ALL = {A: 1, B: 1, C: 1, D: 1}


def test_a_join_takes_effect_two_epochs_later():
    writer = begun()
    writer.write(join(E, until=2, weight=5))
    writer.close()
    assert (voting(writer.state), following(writer.state)) == (ALL, {**ALL, E: 5})  # epoch 1
    writer.close()
    assert voting(writer.state) == {**ALL, E: 5}  # epoch 2
    assert writer.state.voters.get(E.id).vrf == VRF[E.id].public


def test_a_record_in_the_closing_block_counts_and_one_in_the_next_epoch_is_later():
    writer = begun()
    writer.close(join(E, until=2))
    writer.close(join(F, until=2))
    assert voting(writer.state) == {**ALL, E: 1}
    writer.close()
    assert voting(writer.state) == {**ALL, E: 1, F: 1}


def test_a_leaving_voter_stays_locked_while_it_can_be_accused():
    writer = begun((1, 1, 1, 7))
    writer.close(leave(D, 2))
    assert D in voting(writer.state)  # epoch 1: it votes once more
    assert writer.state.locked == (Locked(D.id, 7, "", 1 + LOCK),)
    while writer.state.epoch < 1 + LOCK:
        writer.close()
        assert D not in voting(writer.state)
    assert writer.state.locked[0].weight == 7
    writer.close()
    assert writer.state.locked == ()


def test_a_new_key_takes_the_seat_and_answers_for_the_old_one():
    writer = begun((1, 1, 1, 7))
    writer.close(new_key(D, E, 2))
    assert following(writer.state) == {A: 1, B: 1, C: 1, E: 7}
    assert writer.state.locked == (Locked(D.id, 0, E.id, 1 + LOCK),)
    writer.close(new_key(E, F, 2))
    writer.close(evidence(D, epoch=1))
    assert following(writer.state) == {A: 1, B: 1, C: 1}
    assert {entry.key: entry.weight for entry in writer.state.locked} == {D.id: 0, E.id: 0, F.id: 0}


def test_evidence_takes_a_voters_weight():
    writer = begun()
    writer.close(evidence(B, epoch=0))
    assert (voting(writer.state), following(writer.state)) == (ALL, {A: 1, C: 1, D: 1})
    assert writer.state.locked == (Locked(B.id, 0, "", 1 + LOCK),)
    writer.close(evidence(B, epoch=0), join(B, until=3))  # neither again nor back while it is locked
    assert following(writer.state) == {A: 1, C: 1, D: 1}


def test_evidence_takes_what_a_leaving_voter_has_locked():
    writer = begun()
    writer.close(leave(D, 2))
    writer.close(evidence(D, epoch=1))
    assert writer.state.locked == (Locked(D.id, 0, "", 1 + LOCK),)


@pytest.mark.parametrize(("about", "slashed"), [(0, False), (1, True), (4, True), (5, False)])
def test_evidence_counts_for_so_many_epochs(about, slashed):
    """Recorded in epoch 4, with a lock of 3: about the epochs 1 to 4."""
    writer = begun()
    for _ in range(4):
        writer.close()
    writer.close(evidence(B, epoch=about))
    assert (B not in following(writer.state)) == slashed


def test_evidence_against_who_is_no_voter_changes_nothing():
    writer = begun()
    writer.close(evidence(F, epoch=0))
    assert (following(writer.state), writer.state.locked) == (ALL, ())


def test_a_removal():
    writer = begun((1, 1, 1, 7))
    writer.close(removal(D, 1))
    assert following(writer.state) == {A: 1, B: 1, C: 1}
    assert writer.state.locked == (Locked(D.id, 7, "", 1 + LOCK),)


def test_the_last_voter_stays():
    writer = begun((1, 1))
    writer.close(leave(A, 1), leave(B, 1), evidence(B, epoch=0))
    assert following(writer.state) == {B: 1}


def test_what_cannot_be_is_passed_over():
    writer = begun()
    writer.close(join(A, until=2), leave(F, 2), new_key(F, E, 2), new_key(A, B, 2), removal(F, 2))
    assert (following(writer.state), writer.state.locked) == (ALL, ())


@pytest.mark.parametrize(("until", "counts"), [(3, False), (4, True), (4 + LOCK, True), (5 + LOCK, False)])
def test_a_record_counts_in_time_only(until, counts):
    """Recorded in epoch 4: one that says 3 is late, one that says much more could be used again."""
    for record, after in (
        (join(E, until), {**ALL, E: 1}),
        (leave(D, until), {A: 1, B: 1, C: 1}),
        (new_key(D, E, until), {A: 1, B: 1, C: 1, E: 1}),
        (removal(D, until), {A: 1, B: 1, C: 1}),
    ):
        writer = begun()
        for _ in range(4):
            writer.close()
        writer.close(record)
        assert following(writer.state) == (after if counts else ALL)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 8)), max_size=8), st.integers(2, 8))
def test_no_record_counts_twice(drawn, epochs):
    """All records again in each later epoch: each of them has changed something once at most."""
    writer, records = begun(), []
    for kind, who, until in drawn:
        peer = PEERS[who]
        makers = [join, leave, removal, lambda peer, until: new_key(peer, PEERS[6], until)]
        records.append(makers[kind % 4](peer, until))
    effective = dict.fromkeys((record.id for record in records), 0)
    for _ in range(epochs):
        found = [change for record in records if (change := changes.read(record, GENESIS))]
        for record, change in zip(records, found, strict=True):
            state = writer.state
            after = changes.advanced(state, (change,), state.anchor, state.beacon)
            alone = (after.following, {entry.key for entry in after.locked} - {entry.key for entry in state.locked})
            changed = alone != (state.following, set())
            effective[record.id] += changed
            if changed:
                writer.close(record)
    assert max(effective.values(), default=0) <= 1


@pytest.mark.parametrize("made", range(3))
@pytest.mark.parametrize("ended_by", ["leave", "removal"])
def test_an_older_leave_is_out_of_date_before_its_author_can_vote_again(made, ended_by):
    """Signed in the epoch ``made`` and kept back; what ended the membership was recorded then or later."""
    writer, kept = begun(), leave(D, made + LOCK)
    for _ in range(made + 1):
        writer.close()
    writer.close(leave(D, writer.state.epoch) if ended_by == "leave" else removal(D, writer.state.epoch))
    while D not in following(writer.state):
        writer.close(join(D, until=writer.state.epoch))
    writer.close(kept)
    assert D in following(writer.state)


def test_the_present_epochs_voters_never_change():
    """Whatever an epoch records: its own voters, and those of the next one, are as they were before it."""
    writer = begun()
    for record in (join(E, 1), leave(A, 1), evidence(B, 0), removal(C, 1)):
        before = writer.state
        writer.write(record)
        assert writer.state is before
    writer.close()
    assert writer.state.voters == before.following


BAD = {
    "another federation": changes.record(A, Leave(genesis=OTHER_GENESIS, until=1), time=1),
    "does not say": Record.make(A, "voter leave", {"genesis": GENESIS}, time=1),
    "seat is given away": new_key(A, E, 2, author=B),
    "has not agreed": changes.record(
        ANN, msgspec.structs.replace(Join.make(E, GENESIS, VRF[E.id].public, 1, 2), weight=2), time=1
    ),
    "usable key": changes.record(ANN, Join.make(E, GENESIS, bytes(32), 1, 2), time=1),
    "not signed": changes.record(
        ANN,
        Accusation(
            evidence=Evidence.of(
                Vote.make(A, OTHER_GENESIS, 0, 1, "final", b"1" * 32), Vote.make(A, OTHER_GENESIS, 0, 1, "dummy")
            ).encode()
        ),
        time=1,
    ),
    "not evidence": changes.record(ANN, Accusation(evidence=b"?"), time=1),
}


@pytest.mark.parametrize("match", BAD)
def test_malformed_records_are_refused(match):
    with pytest.raises(LedgerError, match=match):
        changes.read(BAD[match], GENESIS)


def test_a_newcomers_consent_is_to_everything_that_the_record_says():
    joins, takes = Join.make(E, GENESIS, VRF[E.id].public, 1, 2), NewKey.make(E, GENESIS, A.id, VRF[E.id].public, 2)
    for says, author in ((joins, ANN), (takes, A)):
        assert changes.read(changes.record(author, says, time=1), GENESIS)
        for changed in ({"vrf": VRF[D.id].public}, {"until": 3}, {"key": D.id}):
            with pytest.raises(LedgerError, match="has not agreed"):
                changes.read(changes.record(author, msgspec.structs.replace(says, **changed), time=1), GENESIS)
    with pytest.raises(LedgerError, match="has not agreed"):  # to take the seat of another
        changes.read(changes.record(B, msgspec.structs.replace(takes, old=B.id), time=1), GENESIS)


def test_records_of_other_kinds_change_nothing():
    assert changes.read(Record.make(A, "note", {}, time=1), GENESIS) is None


def test_the_consent_to_one_kind_is_none_to_another():
    """A newcomer who agreed to take a seat did not agree to one of its own."""
    agreed = NewKey.make(E, GENESIS, A.id, VRF[E.id].public, 2)
    stolen = Join(genesis=GENESIS, until=2, key=E.id, vrf=agreed.vrf, weight=1, consent=agreed.consent)
    with pytest.raises(LedgerError, match="has not agreed"):
        changes.read(changes.record(ANN, stolen, time=1), GENESIS)


def test_there_is_room_for_all_who_may_be_locked(monkeypatch):
    """Joins and new keys stop before a slashed voter could find no place among the locked."""
    monkeypatch.setattr(changes, "MOST_LOCKED", 5)
    writer = begun()
    writer.close(join(E, 2), join(F, 2))
    assert following(writer.state) == {**ALL, E: 1}
    writer.close(new_key(A, F, 2), evidence(B, 0))
    assert following(writer.state) == {A: 1, C: 1, D: 1, E: 1}
    assert [entry.key for entry in writer.state.locked] == [B.id]


def test_a_joiner_leads_and_signs():
    """The chain goes on with the voters it has drawn from its records, far enough to need the new one."""
    newcomer = identity("newcomer")
    BY_ID[newcomer.id], VRF[newcomer.id] = newcomer, VrfKey.of(newcomer, GENESIS)
    writer = begun((1, 1, 1, 1))
    writer.close(join(newcomer, until=1, weight=30))
    writer.close()
    led = set()
    for _ in range(5):
        blocks, _ = writer.write()
        led.add(blocks[0].block.proposer)
    writer.close()
    assert newcomer.id in led


def test_one_seat_cannot_take_all_the_room_by_changing_its_key():
    """Each old key stays locked. Without a limit one member, alone and in one block, keeps all others from joining."""
    keys = [A, *(identity(f"key {number}") for number in range(6))]

    def move(old, new, until):
        return changes.record(old, NewKey.make(new, GENESIS, old.id, VrfKey.of(new, GENESIS).public, until), time=1)

    writer = begun()
    writer.close(*(move(old, new, LOCK) for old, new in pairwise(keys)))
    locked = [entry.key for entry in writer.state.locked]
    assert sorted(locked) == sorted(key.id for key in keys[:2])
    (seat,) = {member.key for member in writer.state.following.members} - {B.id, C.id, D.id}
    assert seat == keys[2].id
    BY_ID[seat], VRF[seat] = keys[2], VrfKey.of(keys[2], GENESIS)
    for _ in range(LOCK + 1):
        writer.close()
    writer.close(
        move(keys[2], keys[3], writer.state.epoch)
    )  # when the first ones are not locked any more there is room again
    assert keys[3].id in writer.state.following
