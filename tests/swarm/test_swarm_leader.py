import hashlib
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import MessageError
from coterie.protocols.swarm import lead_order, turns_after

PEERS = [f"{j:064x}" for j in range(8)]


def beacon(number):
    return hashlib.sha256(str(number).encode()).digest()


def test_the_order_worked_by_hand():
    drawn = {peer: hashlib.sha256(b"coterie swarm leader\0" + beacon(1) + peer.encode()).hexdigest() for peer in PEERS}
    assert lead_order(PEERS, {}, beacon(1)) == tuple(sorted(PEERS, key=drawn.get))
    turns = {PEERS[0]: 1, PEERS[1]: 0, PEERS[2]: 1}
    order = lead_order(PEERS[:4], turns, beacon(1))
    assert set(order[:2]) == {PEERS[1], PEERS[3]}  # PEERS[3] is new: as one with the fewest
    for number in range(20):  # whoever had the fewest is gone: a newcomer is an equal of the rest
        assert lead_order(PEERS[:3], {PEERS[0]: 1, PEERS[1]: 1}, beacon(number)) == lead_order(
            PEERS[:3], {}, beacon(number)
        )
    assert lead_order(reversed(PEERS), {}, beacon(1)) == lead_order(PEERS, {}, beacon(1))


def test_over_1000_merges_each_leads_as_often_as_any_other():
    turns, led = {}, Counter()
    for merge in range(1000):
        order = lead_order(PEERS, turns, beacon(merge))
        led[order[0]] += 1
        turns = turns_after(order, turns, order[0])
    assert set(led.values()) == {125}


def test_who_is_drawn_among_equals_is_chance():
    """The first of 1000 draws: binomial with p = 1/8, each within 5 deviations of 125, 1 in 200,000 to fail."""
    deviation = math.sqrt(1000 / 8 * 7 / 8)
    for place in (0, 1, 7):
        drawn = Counter(lead_order(PEERS, {}, beacon(merge))[place] for merge in range(1000))
        assert len(drawn) == 8
        assert all(abs(count - 125) <= 5 * deviation for count in drawn.values())


def test_no_two_merges_in_a_row_but_from_one_cycle_to_the_next():
    turns, leaders = {}, []
    for merge in range(400):
        order = lead_order(PEERS, turns, beacon(merge))
        leaders.append(order[0])
        turns = turns_after(order, turns, order[0])
    for start in range(0, 400, 8):
        assert sorted(leaders[start : start + 8]) == PEERS
    assert len({tuple(leaders[start : start + 8]) for start in range(0, 400, 8)}) > 40, "each cycle has its own order"


def test_one_that_is_down_is_waited_for_once_a_cycle():
    turns, missed, led = {}, 0, Counter()
    for merge in range(800):
        order = lead_order(PEERS, turns, beacon(merge))
        leader = order[1] if order[0] == PEERS[3] else order[0]
        missed += order[0] != leader
        led[leader] += 1
        turns = turns_after(order, turns, leader)
    assert 800 / 8 * 0.9 < missed < 800 / 7 * 1.1
    assert PEERS[3] not in led
    assert max(led.values()) - min(led.values()) <= 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(0, 3)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_whoever_comes_goes_and_fails_turns_stay_within_one(events):
    members, turns = [PEERS[0]], {}
    for number, (kind, which, passed) in enumerate(events):
        if kind == 1 and PEERS[which] not in members:
            members.append(PEERS[which])
        if kind == 2 and len(members) > 1 and PEERS[which] in members:
            members.remove(PEERS[which])
        order = lead_order(members, turns, beacon(number))
        turns = turns_after(order, turns, order[min(passed, len(order) - 1)])
        assert sorted(turns) == sorted(members)
        assert min(turns.values()) == 0
        assert max(turns.values()) <= 1


def test_only_a_member_can_have_led():
    with pytest.raises(MessageError):
        turns_after(("a", "b", "c"), {}, "d")
