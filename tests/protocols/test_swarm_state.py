"""What a training's chain says, and what follows from it: every peer comes to the same, and refuses the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_world import LAYOUT, identity, snapshot, torch

from coterie.errors import LedgerError
from coterie.identity.vrf import VrfKey
from coterie.ledger.encoding import pack
from coterie.ledger.records import Record
from coterie.ledger.shared import Charter, Join, Leave, QuorumRule, Removal, Voter, Voters
from coterie.ledger.shared.changes import record as change
from coterie.protocols.swarm import CheckedIn, Mode, Terms, chain_genesis
from coterie.protocols.swarm.audit import MergeJudge
from coterie.protocols.swarm.joins import make_join, make_leave, read_join, read_leave
from coterie.protocols.swarm.packing import packed, unpacked
from coterie.protocols.swarm.records import Agreed, check_in_record, merge_record, read_check_in, read_merge
from coterie.protocols.swarm.state import (
    PartRecord,
    State,
    after,
    contributions,
    read_block,
    require_changes,
    require_merge,
)

NAMES = ("a", "b", "c", "d")
WHO = {name: identity(name) for name in NAMES}
KEYS = {name: who.id for name, who in WHO.items()}
GENESIS = chain_genesis(hashlib.sha256(b"federation").digest(), "contract")
VOTERS = Voters.of(Voter(who.id, VrfKey.of(who, GENESIS).public, 1) for who in WHO.values())
CHAIN = Charter.make(WHO["a"], GENESIS, VOTERS, bytes(32), QuorumRule("majority", 2)).checkpoint
TERMS = Terms("contract", 2, 16)
AGREED = Agreed.of(TERMS, LAYOUT.hash)
MODEL = hashlib.sha256(b"merged").digest()
STATE = State(beacon=bytes(32), interval=16, epoch=5, merged=MODEL)


def checked(name="a", **how):
    return CheckedIn(snapshot(torch.zeros(8)), hashlib.sha256(name.encode()).digest(), **how)


def check_in(name="a", epoch=5, base=5, agreed=AGREED, genesis=GENESIS, **how):
    given = {"genesis": genesis, "epoch": epoch, "base": base, "serial": 3, "agreed": agreed, "time": 0}
    return check_in_record(WHO[name], checked(name, **how), **given)


def merge(leader="a", epoch=5, over=False):
    return merge_record(WHO[leader], GENESIS, epoch, MODEL, over, 0)


def block(*check_ins, leader="a", epoch=5, over=False):
    ordered = sorted(check_ins, key=lambda found: found.author)
    return read_block([*(found.record for found in ordered), merge(leader, epoch, over)], GENESIS)


def require(found, is_member=lambda key: True, state=STATE, agreed=AGREED):
    require_merge(state, found, agreed, VOTERS, is_member)


# Records


@given(
    st.integers(1, 100),
    st.integers(0, 1 << 40),
    st.none() | st.floats(),
    st.booleans(),
    st.sampled_from(list(Mode)),
)
def test_a_check_in_says_what_it_was_told(weight, steps, loss, ending, mode):
    made = check_in(weight=weight, steps=steps, loss=loss, ending=ending, mode=mode)
    read = read_check_in(Record.decode(made.record.encode()), GENESIS)
    assert read == made
    said = read.says
    assert (said.weight, said.steps, said.finished, said.mode) == (weight, steps, ending, mode)
    assert said.loss == (loss if loss is not None and math.isfinite(loss) and abs(loss) <= 1e300 else None)


@pytest.mark.parametrize("how", [{"weight": 0}, {"weight": 101}, {"base": -1}])
def test_a_check_in_that_others_would_refuse_is_not_made(how):
    with pytest.raises(LedgerError):
        check_in(**how)


def test_records_of_another_training_or_kind_are_refused():
    with pytest.raises(LedgerError, match="another training"):
        read_check_in(check_in(genesis=chain_genesis(bytes(32), "contract")).record, GENESIS)
    with pytest.raises(LedgerError, match="not a swarm merge"):
        read_merge(check_in().record, GENESIS)
    content = check_in().record.content | {"extra": 1}
    with pytest.raises(LedgerError, match="does not say"):
        read_check_in(Record.make(WHO["a"], "swarm check-in", content, time=0), GENESIS)


def test_chains_of_other_contracts_and_federations_have_other_names():
    names = [chain_genesis(bytes([one]) * 32, two) for one in (0, 1) for two in ("x", "y")]
    assert len(set(names)) == 4


def test_a_check_in_is_kept_as_it_was():
    made = checked(weight=7, loss=0.5, ending=True, mode=Mode.ACTIVE)
    assert unpacked(packed(made), {made.digest: made.snapshot}.get) == made
    assert unpacked(packed(made), lambda digest: None) is None
    assert unpacked(packed(None), {}.get) is None


# What a voter refuses


def test_a_good_merge_is_accepted():
    require(block(check_in("a"), check_in("b", base=3)))
    require(block(check_in("a", ending=True), check_in("b", ending=True), over=True))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (lambda: block(check_in("a"), check_in("b"), epoch=6), "not of epoch 5"),
        (lambda: block(check_in("a"), check_in("b", epoch=4, base=4)), "not of epoch 5"),
        (lambda: block(check_in("a")), "1 check-ins; 2 are needed"),
        (lambda: block(check_in("a"), check_in("b"), leader="c"), "has not checked in"),
        (lambda: block(check_in("a"), check_in("b", ending=True), over=True), "while a site trains"),
        (lambda: block(check_in("a"), check_in("b", base=6)), "trained from merge 6 of 5"),
        (
            lambda: block(check_in("a"), check_in("b", agreed=msgspec.structs.replace(AGREED, merge="geomedian"))),
            "merge mean here and geomedian there",
        ),
    ],
)
def test_a_merge_that_must_not_be(found, why):
    with pytest.raises(LedgerError, match=why):
        require(found())


def test_a_stranger_is_not_merged():
    with pytest.raises(LedgerError, match="no member"):
        require(block(check_in("a"), check_in("b")), is_member=lambda key: key != KEYS["b"])


def test_blocks_that_are_not_well_formed():
    one, two = sorted((check_in("a"), check_in("b")), key=lambda found: found.author)
    with pytest.raises(LedgerError, match="not sorted"):
        read_block([two.record, one.record, merge()], GENESIS)
    with pytest.raises(LedgerError, match="0 merges"):
        read_block([one.record], GENESIS)
    with pytest.raises(LedgerError, match="2 merges"):
        read_block([merge("a"), merge("b")], GENESIS)
    assert read_block([], GENESIS) is None


def test_who_may_come_and_go():
    join = Join.make(WHO["d"], GENESIS, VrfKey.of(WHO["d"], GENESIS).public, 1, 10)
    heavy = Join.make(WHO["d"], GENESIS, VrfKey.of(WHO["d"], GENESIS).public, 2, 10)
    removal, leave = Removal(genesis=GENESIS, until=10, key=KEYS["d"]), Leave(genesis=GENESIS, until=10)
    member, stranger = (lambda key: True), (lambda key: key != KEYS["d"])

    def allowed(says, is_member):
        try:
            require_changes([merge(), change(WHO["a"], says, 0)], CHAIN, is_member, {})
        except LedgerError:
            return False
        return True

    assert allowed(join, member) and not allowed(join, stranger) and not allowed(heavy, member)
    assert allowed(removal, stranger) and not allowed(removal, member)
    assert allowed(leave, member)
    with pytest.raises(LedgerError, match="does not belong"):
        require_changes([Record.make(WHO["a"], "note", {}, time=0)], CHAIN, member, {})


@pytest.mark.parametrize(
    ("kind", "min_peers", "may"), [("majority", 1, 3), ("majority", 2, 2), ("majority", 4, 0), ("two thirds", 2, 0)]
)
def test_as_many_leave_as_leave_enough(kind, min_peers, may):
    chain = Charter.make(WHO["a"], GENESIS, VOTERS, bytes(32), QuorumRule(kind, min_peers)).checkpoint
    leaves = [Record.decode(make_leave(WHO[name], GENESIS, 5, 0)) for name in NAMES]
    require_changes([merge(), *leaves[:may]], chain, lambda key: True, {})
    with pytest.raises(LedgerError, match=f"{3 - may} remain"):
        require_changes([merge(), *leaves[: may + 1]], chain, lambda key: True, {})
    if may:
        for early in (leaves[:1], [leaves[0], merge()]):
            with pytest.raises(LedgerError, match="before a merge"):
                require_changes(early, chain, lambda key: True, {})
        stranger = change(WHO["a"], Removal(genesis=GENESIS, until=10, key=KEYS["d"]), 0)
        with pytest.raises(LedgerError, match="remain"):  # one that is removed does not remain either
            require_changes([merge(), stranger, *leaves[:may]], chain, lambda key: key != KEYS["d"], {})


def test_a_leave_is_checked():
    good = make_leave(WHO["d"], GENESIS, 3, 0)
    assert read_leave(good, GENESIS, KEYS["d"], 13, {}).id == Record.decode(good).id
    assert read_leave(good, GENESIS, KEYS["d"], 14, {}) is None
    assert read_leave(good, GENESIS, KEYS["d"], 2, {}) is None  # the chain would pass it over
    assert read_leave(good, GENESIS, KEYS["c"], 3, {}) is None
    assert read_leave(good, bytes(32), KEYS["d"], 3, {}) is None
    assert read_leave(make_join(WHO["d"], GENESIS, 3), GENESIS, KEYS["d"], 3, {}) is None
    assert read_leave(good[:-1] + bytes([good[-1] ^ 1]), GENESIS, KEYS["d"], 3, {}) is None
    assert read_leave(merge("d").encode(), GENESIS, KEYS["d"], 3, {}) is None


def test_a_leave_of_one_that_has_checked_in_since_is_none():
    """Signed before merge 5, by which its author's check-in for that one may have been made already."""
    data, member = make_leave(WHO["d"], GENESIS, 5, 0), lambda key: True
    leave = Record.decode(data)
    for checked_in in ({}, {KEYS["d"]: 5}, {KEYS["a"]: 9}):
        assert read_leave(data, GENESIS, KEYS["d"], 9, checked_in) == leave
        require_changes([merge(), leave], CHAIN, member, checked_in)
    assert read_leave(data, GENESIS, KEYS["d"], 9, {KEYS["d"]: 6}) is None
    with pytest.raises(LedgerError, match="checked in since"):
        require_changes([merge(), leave], CHAIN, member, {KEYS["d"]: 6})


def test_an_audit_finds_a_leave_of_one_that_has_checked_in_since():
    leave = Record.decode(make_leave(WHO["b"], GENESIS, 0, 0))

    def judged(*names):
        """The leave with merge 1, which these have checked in for; all have for merge 0."""
        judge = MergeJudge()
        assert "before a merge" in judge(CHAIN, leave)
        for epoch, there in enumerate((NAMES, names)):
            state = msgspec.structs.replace(CHAIN, epoch=epoch)
            found = sorted((check_in(name, epoch, epoch) for name in there), key=lambda made: made.author)
            assert "before a merge" in judge(state, leave)
            assert not any(judge(state, record) for record in [*(made.record for made in found), merge(epoch=epoch)])
            if not epoch:
                assert judge(state, leave) == ""
        return judge(state, leave)

    assert judged("a", "c") == ""
    assert "checked in since" in judged("a", "b")


def test_a_consent_to_vote_is_checked():
    good = make_join(WHO["d"], GENESIS, 3)
    assert read_join(good, GENESIS).key == KEYS["d"]
    assert read_join(good, bytes(32)) is None
    assert read_join(b"", GENESIS) is None
    assert read_join(pack(Join.make(WHO["d"], GENESIS, VrfKey.of(WHO["d"], GENESIS).public, 2, 10)), GENESIS) is None
    assert read_join(good[:-1] + bytes([good[-1] ^ 1]), GENESIS) is None


# What follows


def test_a_rule_without_a_name_is_named_by_its_kind():
    for rule, name in ((sum, "sum"), (partial(sum, start=1), "partial")):
        assert Agreed.of(replace(TERMS, merge=rule), LAYOUT.hash).merge == f"function {name}"


def test_weights_by_node_weight_samples_age_and_mode():
    found = [
        check_in("a", weight=4, samples=10),
        check_in("b", base=3),
        check_in("c", ending=True, mode=Mode.ACTIVE, weight=2),
        check_in("d", ending=True, mode=Mode.INACTIVE, weight=9),
    ]
    parts = contributions(STATE, found, KEYS["a"], AGREED)
    assert [(part.weight, part.merged) for part in parts] == [(40.0, False), (1 / 3, False), (2.0, True), (0.0, False)]


def test_one_that_is_done_and_late_ages():
    (part,) = contributions(STATE, [check_in("a", ending=True, base=1)], KEYS["a"], AGREED)
    assert part.weight == 1 / 5


def test_the_last_merged_model_does_not_count_where_there_is_none():
    first = State(beacon=bytes(32), interval=16)
    (part,) = contributions(first, [check_in("a", 0, 0, ending=True, mode=Mode.ACTIVE)], KEYS["a"], AGREED)
    assert part.weight == 0


def test_the_state_after_a_merge():
    found = block(check_in("a", weight=3, loss=0.5, epochs=2), check_in("b", metric=0.9))
    state = after(STATE, found, AGREED, VOTERS, (5, 1))
    assert (state.epoch, state.stands, state.merged, state.leader) == (6, (5, 1), MODEL, KEYS["a"])
    assert state.beacon == found.record.id and state.interval == 16 and not state.over
    assert state.parts == {
        KEYS["a"]: PartRecord(3, 0.75, 0.5, None, 2, False),
        KEYS["b"]: PartRecord(3, 0.25, None, 0.9, 0, False),
    }
    assert state.turns[KEYS["a"]] == 1 and min(state.turns.values()) == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_two_peers_come_to_the_same_state(leaders):
    def run():
        state = State(beacon=bytes(32), interval=16)
        for epoch, leader in enumerate(leaders):
            found = block(
                *(check_in(name, epoch, epoch, loss=1 / (1 + epoch)) for name in NAMES),
                leader=NAMES[leader],
                epoch=epoch,
            )
            state = after(state, found, replace_adaptive(), VOTERS, (epoch, 1))
        return state

    assert run() == run()


def replace_adaptive():
    return Agreed.of(replace(TERMS, adaptive=True), LAYOUT.hash)


def test_losses_of_stragglers_and_of_those_who_are_done_do_not_move_the_interval():
    adaptive = replace_adaptive()
    state = msgspec.structs.replace(STATE, losses={KEYS["a"]: 1.0, KEYS["b"]: 1.0, KEYS["c"]: 1.0})
    late = [check_in("b", base=4, loss=99.0), check_in("c", loss=99.0, ending=True)]
    found = block(check_in("a", loss=0.5), *late)
    assert after(state, found, adaptive, VOTERS, (5, 1)).interval == 20
    worse = block(check_in("a", loss=1.5), *late)
    assert after(state, worse, adaptive, VOTERS, (5, 1)).interval == 8
