"""Interval, staleness, check-in and quorum: cases worked by hand, and properties."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import MessageError, SpecError
from coterie.protocols.swarm import (
    Blocked,
    Bounds,
    CheckIn,
    Contribution,
    Gathering,
    Interval,
    Merge,
    Mode,
    Quorum,
    Wait,
    adapted,
    age,
    contribution,
    decide,
    fresh_share,
)

BOUNDS = Bounds(32, 512)


def batches(interval, losses, bounds=BOUNDS):
    return adapted(interval, losses, bounds).batches


def test_the_interval_worked_by_hand():
    first = adapted(Interval(128), {"a": 2.0, "b": 1.0}, BOUNDS)
    assert first == Interval(128, {"a": 2.0, "b": 1.0})  # nothing to compare with
    assert batches(first, {"a": 1.0, "b": 1.5}) == 160  # 1.5 -> 1.25: a quarter more
    assert batches(first, {"a": 1.0, "b": 2.0}) == 64  # 1.5 -> 1.5: half
    assert batches(first, {"a": 2.5, "b": 1.0}) == 64
    assert batches(first, {"b": 0.9, "c": 100.0}) == 160  # only b reported both times
    assert batches(first, {"c": 0.0}) == 128
    assert batches(first, {}) == 128
    assert adapted(first, {"b": 0.5, "c": 3.0}, BOUNDS).losses == {"a": 2.0, "b": 0.5, "c": 3.0}
    assert batches(Interval(3, {"a": 1.0}), {"a": 0.5}, Bounds(1, 9)) == 4  # at least one more
    assert Bounds.about(128) == BOUNDS
    assert Bounds.about(2) == Bounds(1, 8)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_shortens(loss):
    before = Interval(128, {"a": 1.0, "b": 1.0})
    assert batches(before, {"a": loss, "b": 0.1}) == 64
    after = adapted(before, {"a": loss, "b": 0.1}, BOUNDS)
    assert batches(after, {"a": 1.0, "b": 0.1}) == 80  # finite again: it fell


losses = st.dictionaries(st.sampled_from("abcdef"), st.floats(allow_nan=True, allow_infinity=True), max_size=6)


@given(st.integers(32, 512), losses, losses, st.integers(0, 2**32))
@settings(deadline=None)
def test_the_interval_stays_in_bounds_and_has_no_order(now, before, after, seed):
    found = adapted(Interval(now, before), after, BOUNDS)
    assert 32 <= found.batches <= 512
    mixed = [list(each.items()) for each in (before, after)]
    for each in mixed:
        random.Random(seed).shuffle(each)
    again = adapted(Interval(now, dict(mixed[0])), dict(mixed[1]), BOUNDS)
    assert found.batches == again.batches
    assert list(found.losses) == list(again.losses) == sorted(before | after)


def test_the_interval_reaches_its_bounds_and_stops_there():
    up = down = Interval(128, {"a": 100.0})
    for step in range(1, 20):
        up, down = adapted(up, {"a": 100.0 - step}, BOUNDS), adapted(down, {"a": 100.0 + step}, BOUNDS)
    assert (up.batches, down.batches) == (512, 32)
    for least, most in ((0, 5), (6, 5)):
        with pytest.raises(SpecError, match="syncFrequency"):
            Bounds(least, most)


def test_staleness_worked_by_hand():
    assert [age(base, 5) for base in (5, 4, 0)] == [0, 1, 5]
    assert [fresh_share(each) for each in (0, 1, 4)] == [1.0, 0.5, 0.2]
    for base in (6, -1):
        with pytest.raises(MessageError, match=f"merge {base} of 5"):
            age(base, 5)


def test_contributions_worked_by_hand():
    assert contribution(CheckIn(base=7), 7) == Contribution(merged=False, weight=1.0)
    assert contribution(CheckIn(base=5, weight=3, samples=200), 7) == Contribution(merged=False, weight=200.0)
    done = {"base": 5, "weight": 3, "samples": 200, "finished": True}
    assert contribution(CheckIn(**done), 7) == Contribution(merged=False, weight=600.0)  # done, not late
    assert contribution(CheckIn(**done, mode=Mode.ACTIVE), 7) == Contribution(merged=True, weight=600.0)
    assert contribution(CheckIn(**done, mode=Mode("inactive")), 7).weight == 0.0
    assert contribution(CheckIn(base=7, mode=Mode.INACTIVE), 7).weight == 1.0  # until it has finished
    for finished in (False, True):
        with pytest.raises(MessageError):
            contribution(CheckIn(base=8, finished=finished), 7)


@given(st.integers(1, 100), st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50))
@settings(deadline=None)
def test_a_later_model_never_weighs_more(weight, samples, base, more):
    late = contribution(CheckIn(base, weight, samples), base + more).weight
    assert 0 <= late <= contribution(CheckIn(base, weight, samples), base).weight == weight * samples


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": 101}, {"samples": -1}, {"samples": 1 << 32}])
def test_a_check_in_that_nobody_can_send(wrong):
    with pytest.raises(MessageError):
        CheckIn(base=0, **wrong)


QUORUM = Quorum(min_peers=3, votes=3, full_wait=30.0, deadline=300.0)


def gathering(reachable, ready, seconds=0.0, since_enough=None, members="abcde"):
    return Gathering(tuple(members), tuple(reachable), tuple(ready), seconds, since_enough)


def test_the_quorum_worked_by_hand():
    assert decide(QUORUM, gathering("abcde", "abcde", 9.0, 5.0)) == Merge()
    assert decide(QUORUM, gathering("abcde", "abc", 9.0, 5.0)) == Wait(25.0)
    assert decide(QUORUM, gathering("abcde", "abc", 39.0, 30.0)) == Merge()  # d and e come later, by their age
    assert decide(QUORUM, gathering("abc", "abc", 9.0, 0.0)) == Merge()  # nobody is left to wait for
    assert decide(QUORUM, gathering("abcd", "ab", 9.0)) == Wait(291.0)
    assert decide(QUORUM, gathering("abcd", "abe", 9.0, 1.0)) == Wait(29.0)  # e has finished and gone


def test_what_blocks_is_said_at_once():
    split = decide(QUORUM, gathering("ab", "ab"))
    assert isinstance(split, Blocked)
    assert "2 of 5 members can be reached, and 3 must agree" in split.reason
    assert "c, d, e" in split.reason
    few = decide(Quorum(min_peers=4, votes=2), gathering("abc", "a"))
    assert isinstance(few, Blocked)
    assert "needs 4 peers, and 3 of 5" in few.reason
    assert "d, e" in few.reason
    slow = decide(QUORUM, gathering("abcde", "ab", 300.0))
    assert isinstance(slow, Blocked)
    assert "c, d, e" in slow.reason
    many = decide(Quorum(min_peers=1, votes=30), gathering("a", "a", members=[f"{j:02d}" for j in range(40)]))
    assert isinstance(many, Blocked)
    assert "and 35 more" in many.reason


def test_of_two_sides_of_a_split_one_merges_at_most():
    """With more than half of the votes, wherever the cut is, and though two peers are enough for a merge."""
    quorum = Quorum(min_peers=2, votes=5 // 2 + 1)
    for cut in range(6):
        sides = "abcde"[:cut], "abcde"[cut:]
        assert sum(decide(quorum, gathering(side, side, 99.0, 99.0)) == Merge() for side in sides) == 1


@given(st.sets(st.sampled_from("abcde")), st.sets(st.sampled_from("abcde")), st.floats(0, 1000), st.floats(0, 1000))
@settings(deadline=None)
def test_a_merge_has_enough_models_and_votes_and_a_wait_ends(reachable, ready, seconds, enough):
    found = decide(QUORUM, gathering(sorted(reachable), sorted(ready), seconds, min(enough, seconds)))
    if found == Merge():
        assert len(ready) >= 3
        assert len(reachable) >= 3
    if isinstance(found, Wait):
        assert 0 < found.seconds <= 300
        assert reachable - ready


@pytest.mark.parametrize("wrong", [{"min_peers": 0}, {"votes": 0}, {"full_wait": math.nan}, {"deadline": 0.0}])
def test_a_quorum_that_cannot_be(wrong):
    with pytest.raises(SpecError, match="minPeers"):
        Quorum(**{"min_peers": 1, "votes": 1} | wrong)
