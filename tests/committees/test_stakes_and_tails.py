"""The bound on one peer's stake, and the chances of corrupt seats, against brute force and scipy."""

from fractions import Fraction
from itertools import combinations
from math import ceil

import pytest
from committee_worlds import binomial_above, outcomes
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from coterie.errors import SpecError
from coterie.protocols.committees import capped
from coterie.protocols.committees.tails import Tail, _most_trials, corrupt_seats

shares = st.fractions(0, 1, max_denominator=30)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 20), st.integers(1, 6))
@example([1000, 3, 3], 3, 1)
@example([1, 1, 1, 50], 4, 1)
def test_the_bound_is_the_greatest_that_keeps_everybody_to_most(stakes, seats, most):
    assume(any(stakes))
    holders = sum(stake > 0 for stake in stakes)
    if most * holders < seats:
        with pytest.raises(SpecError, match="cannot fill"):
            capped(stakes, seats, most)
        return
    fits = [b for b in range(1, max(stakes) + 1) if seats * b <= most * sum(min(stake, b) for stake in stakes)]
    assert capped(stakes, seats, most) == [min(stake, max(fits)) for stake in stakes]


def test_equal_stakes_are_hypergeometric():
    for peers, corrupt, seats in ((10, 3, 10), (50, 5, 20), (100, 20, 64), (1000, 100, 50)):
        tail = corrupt_seats([7] * peers, seats, Fraction(7 * corrupt))
        for count in range(corrupt + 1):
            assert float(tail.above(count)) == pytest.approx(hypergeom.sf(count, peers, corrupt, seats), rel=1e-9)


def test_equal_stakes_with_more_seats_than_peers():
    tail = corrupt_seats([1] * 10, 23, Fraction(3))
    assert tail.certain == 6
    assert tail.above(5) == 1
    assert float(tail.above(7)) == pytest.approx(hypergeom.sf(1, 10, 3, 3))


def test_ten_seats_of_a_hundred_peers_are_too_few():
    shares = (10, 20, 30)
    found = [float(corrupt_seats([1] * 100, 10, Fraction(share)).above(2)) for share in shares]
    assert found == pytest.approx([hypergeom.sf(2, 100, share, 10) for share in shares])
    assert [round(chance, 2) for chance in found] == [0.06, 0.32, 0.63]
    assert [round(binom.sf(2, 10, share / 100), 2) for share in shares] == [0.07, 0.32, 0.62], "had each its own draw"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda s: sum(s) <= 9), st.integers(1, 6), shares)
def test_the_bound_holds_for_every_set_of_corrupt_peers(amounts, seats, share):
    budget = share * sum(amounts)
    tail, ways = corrupt_seats(amounts, seats, budget), outcomes(amounts, seats)
    for size in range(len(amounts) + 1):
        for chosen in combinations(range(len(amounts)), size):
            if sum(amounts[i] for i in chosen) > budget or min(amounts) == max(amounts):
                continue  # the hypergeometric is over orders, this is one order
            for count in range(seats + 1):
                above = sum(chance for held, chance in ways.items() if sum(held[i] for i in chosen) > count)
                assert above <= tail.above(count)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 25), shares)
def test_no_set_has_more_trials(stakes, seats, share):
    total, budget = sum(stakes), share * sum(stakes)
    most = max(
        sum(-(-seats * stake // total) for stake in chosen)
        for size in range(len(stakes) + 1)
        for chosen in combinations(stakes, size)
        if sum(chosen) <= budget
    )
    found = _most_trials(stakes, seats, budget)
    assert most <= found
    largest = max(-(-seats * stake // total) for stake in stakes)
    assert found <= most + largest, "the fractional knapsack is above by less than one item"


@pytest.mark.parametrize(("seats", "share"), [(10, 20), (64, 20), (200, 10), (333, 25)])
def test_many_small_stakes_are_binomial(seats, share):
    stakes = [1] * 10_000 + [2] * 10_000
    tail = corrupt_seats(stakes, seats, Fraction(share * sum(stakes), 100))
    for count in range(ceil(seats * share / 100), seats, 7):
        exact = binomial_above(seats, Fraction(share, 100), count)
        assert exact <= tail.above(count)
        assert float(tail.above(count)) == pytest.approx(float(exact), rel=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 8), shares)
def test_quantiles(certain, weights, least, risk):
    assume(any(weights) and risk < 1)
    tail = Tail(certain, tuple(weights), least)
    count = tail.quantile(risk)
    assert tail.above(count) <= risk
    assert count == max(certain, least) or count == 0 or tail.above(count - 1) > risk


def test_nobody_corrupt():
    assert corrupt_seats([3, 5], 4, Fraction(0)).quantile(Fraction(1, 10**9)) == 0
