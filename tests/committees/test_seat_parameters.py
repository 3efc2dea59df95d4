"""The seat calculator: the reference table, the smallest committee by brute force, and Biscotti's calculator."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from coterie.errors import SpecError
from coterie.protocols.committees import (
    LIAR_RISK,
    PRIVACY_RISK,
    capped,
    committee_size,
    majority_risk,
    plan_seats,
    unmasking_risk,
)
from coterie.protocols.committees.tails import corrupt_seats

# peers, per cent corrupt: m, k, t, e, offline
TABLE = {
    (10, 10): (10, 4, 1, 1, 3),
    (10, 20): (10, 4, 2, 2, 0),
    (10, 30): (10, 1, 3, 3, 0),
    (50, 10): (20, 4, 5, 5, 1),
    (50, 20): (40, 4, 10, 10, 6),
    (50, 30): (50, 4, 15, 15, 1),
    (100, 10): (32, 4, 10, 8, 2),
    (100, 20): (64, 4, 20, 18, 4),
    (100, 30): (100, 4, 30, 30, 6),
    (1000, 10): (50, 4, 17, 12, 5),
    (1000, 20): (160, 4, 55, 47, 7),
    (1000, 30): (1000, 4, 300, 300, 96),
}
BISCOTTI = {
    "0.001": (4, 8, 12, 18, 30, 50, 96),
    "0.01": (3, 4, 6, 10, 16, 26, 52),
    "0.05": (3, 3, 4, 4, 6, 10, 22),
}


def row(plan):
    return plan.seats, plan.pack, plan.privacy, plan.liars, plan.offline


@pytest.mark.parametrize(("peers", "corrupt"), TABLE)
def test_the_table_for_equal_stakes(peers, corrupt):
    wanted = TABLE[peers, corrupt]
    plan = plan_seats([10] * peers, Fraction(corrupt, 100), seats=wanted[0])
    assert row(plan) == wanted
    assert plan.recover == plan.privacy + plan.pack
    assert plan.exact
    law = hypergeom(peers, peers * corrupt // 100, plan.seats)
    assert float(plan.privacy_risk) == pytest.approx(law.sf(plan.privacy), rel=1e-6, abs=1e-12)
    assert float(plan.liar_risk) == pytest.approx(law.sf(plan.liars), rel=1e-6, abs=1e-12)
    assert plan.privacy == 1 or law.sf(plan.privacy - 1) > 1e-6
    assert law.sf(plan.liars - 1) > 1e-3


@pytest.mark.parametrize(("peers", "corrupt"), [(7, 20), (10, 10), (10, 20), (30, 20), (60, 10), (60, 30), (100, 20)])
def test_the_smallest_committee_is_taken(peers, corrupt):
    share, wanted = Fraction(corrupt, 100), Fraction(1, 20)
    plan = plan_seats([3] * peers, share)
    fitting = []
    for seats in range(2, peers + 1):
        law = hypergeom(peers, int(share * peers), seats)
        t = max(1, next(t for t in range(seats + 1) if law.sf(t) <= 1e-6))
        e = next(e for e in range(seats + 1) if law.sf(e) <= 1e-3)
        fitting += [(-k, seats, t, e) for k in range(1, 5) if seats - t - k - 2 * e >= wanted * seats]
    pack, seats, t, e = min(fitting)
    assert row(plan) == (seats, -pack, t, e, seats - t + pack - 2 * e)


def test_a_group_too_small_for_absences_has_a_seat_for_each():
    assert row(plan_seats([1] * 10, Fraction(3, 10))) == (10, 1, 3, 3, 0)


def test_without_corrupt_peers_one_seat_alone_still_learns_nothing():
    plan = plan_seats([1] * 10, Fraction(0))
    assert (plan.privacy, plan.liars) == (1, 0)
    assert plan.privacy_risk == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=4, max_size=60), st.integers(0, 20), st.integers(0, 20))
def test_a_plan_keeps_what_it_promises(stakes, corrupt, offline):
    share = Fraction(corrupt, 100)
    try:
        plan = plan_seats(stakes, share, offline=Fraction(offline, 100))
    except SpecError as error:
        assert error.remedy
        return
    m, k, t, e, x = row(plan)
    assert m == t + k + 2 * e + x
    assert min(k, t) >= 1
    assert min(e, x) >= 0
    lowered = [stake for stake in capped(stakes, m, t) if stake]
    assert m * max(lowered) <= t * sum(lowered), "nobody has more than t seats"
    tail = corrupt_seats(lowered, m, share * sum(stakes))
    assert plan.privacy_risk == tail.above(t) <= PRIVACY_RISK
    assert plan.liar_risk == tail.above(e) <= LIAR_RISK


def test_unequal_stakes_need_more():
    equal, unequal = [10] * 100, [10, 15, 20, 25] * 25
    for corrupt in (Fraction(1, 10), Fraction(1, 5)):
        assert plan_seats(unequal, corrupt).seats > plan_seats(equal, corrupt).seats
    assert not plan_seats(unequal, Fraction(1, 10)).exact
    assert plan_seats([10, 15, 20, 25] * 25, Fraction(3, 10)).seats > 100, "more seats than peers"


def test_a_whale_is_lowered_and_the_others_count_for_more():
    stakes, corrupt = [400] + [10] * 60, Fraction(1, 10)
    plan = plan_seats(stakes, corrupt)
    lowered = capped(stakes, plan.seats, plan.privacy)
    assert lowered[0] < 400
    as_given, as_drawn = (corrupt_seats(each, plan.seats, corrupt * sum(stakes)) for each in (stakes, lowered))
    assert plan.liar_risk == as_drawn.above(plan.liars) > as_given.above(plan.liars)


@pytest.mark.parametrize(
    ("stakes", "corrupt", "more", "message"),
    [
        ([10] * 10, "1/3", {}, "a corrupt share of 0.333"),
        ([10] * 10, "-1/10", {}, "a corrupt share of -0.1"),
        ([10] * 10, "1/10", {"seats": 1}, "1 seats"),
        ([10] * 10, "1/10", {"seats": 5000}, "5000 seats"),
        ([10] * 10, "1/10", {"offline": Fraction(3, 4)}, "an offline share of 0.75"),
        ([10] * 100, "3/10", {"seats": 10}, "no committee stands 0.3 of the stake of 100 peers"),
        ([1, 1], "0.3", {"seats": 2}, None),
        ([], "0.1", {}, "at least one peer"),
        ([0, 0], "0.1", {}, "nobody has any stake"),
        ([5], "0.1", {}, "no committee"),
    ],
)
def test_what_cannot_be_planned_is_said(stakes, corrupt, more, message):
    if message is None:
        assert row(plan_seats(stakes, Fraction(corrupt), **more)) == (2, 1, 1, 0, 0)
        return
    with pytest.raises(SpecError, match=message) as caught:
        plan_seats(stakes, Fraction(corrupt), **more)
    assert caught.value.remedy


@pytest.mark.parametrize("risk", BISCOTTI)
def test_the_table_of_biscotti(risk):
    found = tuple(committee_size(Fraction(share, 100), Fraction(risk)) for share in range(5, 40, 5))
    assert found == BISCOTTI[risk]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.floats(1e-5, 0.5))
def test_committees_of_biscotti_against_scipy(share, risk):
    size = committee_size(Fraction(share, 100), Fraction(risk))
    assert size >= 3
    assert binom.sf(size // 2, size, share / 100) < risk * (1 + 1e-9)
    assert all(binom.sf(k // 2, k, share / 100) >= risk * (1 - 1e-9) for k in range(3, size))
    assert float(majority_risk(Fraction(share, 100), size)) == pytest.approx(binom.sf(size // 2, size, share / 100))


def test_a_risk_that_is_just_met_is_not_below_it():
    """Of three seats at a quarter: 3 (1/4)^2 3/4 + (1/4)^3 = 5/32."""
    assert majority_risk(Fraction(1, 4), 3) == Fraction(5, 32)
    assert committee_size(Fraction(1, 4), Fraction(5, 32)) == 4
    assert committee_size(Fraction(1, 4), Fraction(5001, 32000)) == 3


def test_the_chance_of_unmasking():
    assert unmasking_risk(Fraction(1, 2), 3) == Fraction(7, 64)
    assert unmasking_risk(Fraction(1, 2), 5) == Fraction(7, 256)
    assert unmasking_risk(Fraction(3, 10), 2) == Fraction(9, 100) * Fraction(973, 1000)
    assert unmasking_risk(Fraction(0), 2) == 0


@pytest.mark.parametrize(
    ("colluding", "risk", "message"),
    [
        ("1/2", "1/100", "colluding share of 0.5"),
        ("-1/2", "1/100", "share"),
        ("1/10", "0", "chance"),
        ("1/10", "2", "2"),
    ],
)
def test_biscotti_refuses_what_makes_no_sense(colluding, risk, message):
    with pytest.raises(SpecError, match=message):
        committee_size(Fraction(colluding), Fraction(risk))


def test_a_committee_without_end_is_refused():
    with pytest.raises(SpecError, match="more than 1000 seats"):
        committee_size(Fraction(49, 100), Fraction(1, 10**6))
