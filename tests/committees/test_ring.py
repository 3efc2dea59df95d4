"""The stake ring: exact distributions where they can be counted, statistics with a stated error where they cannot."""

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from committee_worlds import binomial_above, drawn_again, outcomes, systematic
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SpecError
from coterie.protocols.committees import draw
from coterie.protocols.committees.stream import Stream, shuffled

small_orders = st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(lambda amounts: 0 < sum(amounts) <= 8)
any_stakes = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 10**9), min_size=1).filter(
    lambda stakes: any(stakes.values())
)


@settings(max_examples=60, deadline=None)
@given(small_orders, st.integers(1, 7))
def test_seats_are_exactly_proportional_to_stake_in_the_mean(amounts, seats):
    ways = outcomes(amounts, seats)
    assert sum(ways.values()) == 1
    for i, amount in enumerate(amounts):
        share = Fraction(seats * amount, sum(amounts))
        assert sum(chance * held[i] for held, chance in ways.items()) == share
        assert {held[i] for held in ways} <= {int(share), int(share) + (share.denominator > 1)}
    assert {sum(held) for held in ways} == {seats}


@settings(max_examples=60, deadline=None)
@given(small_orders, st.integers(1, 7), st.integers(1, 31))
def test_no_set_of_peers_gets_many_seats_more_often_than_by_independent_draws(amounts, seats, members):
    chosen = [i for i in range(len(amounts)) if members >> i & 1]
    share = Fraction(sum(amounts[i] for i in chosen), sum(amounts))
    ways = outcomes(amounts, seats)
    for count in range(seats + 1):
        if count >= seats * share:
            above = sum(chance for held, chance in ways.items() if sum(held[i] for i in chosen) > count)
            assert above <= binomial_above(seats, share, count)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=70), st.text(max_size=10), any_stakes, st.integers(1, 40))
def test_anybody_draws_the_same(beacon, role, stakes, seats):
    drawn = draw(beacon, role, stakes, seats)
    assert drawn == drawn_again(beacon, role, stakes, seats)
    assert drawn == draw(beacon, role, dict(reversed(stakes.items())), seats)
    total = sum(stakes.values())
    for peer, count in Counter(drawn).items():
        assert seats * stakes[peer] // total <= count <= -(-seats * stakes[peer] // total)


def test_a_draw_stays_as_it_is():
    stakes = {"a": 5, "b": 1, "c": 3, "d": 0, "e": 7}
    assert draw(bytes(32), "aggregator", stakes, 6) == ("b", "a", "a", "c", "e", "e")


def test_beacons_and_roles_have_nothing_to_do_with_each_other():
    stakes = {f"{i:03}": 1 for i in range(300)}
    drawn = [
        set(draw(beacon, role, stakes, 30))
        for beacon, role in ((b"one", "noiser"), (b"one", "verifier"), (b"two", "noiser"), (b"on", "enoiser"))
    ]
    for one, other in combinations(drawn, 2):
        assert len(one & other) < 12, "3 in the mean, hypergeometric: 12 or more have a chance of 1e-5"


def test_every_committee_of_equal_stakes_is_as_likely():
    stakes, draws = dict.fromkeys("abcdef", 10), 4000
    found = Counter(frozenset(draw(i.to_bytes(4, "big"), "verifier", stakes, 3)) for i in range(draws))
    assert len(found) == 20
    chi = sum((count - draws / 20) ** 2 / (draws / 20) for count in found.values())
    assert chi < 53, "chi-square with 19 degrees of freedom: above 53 with a chance of 5e-5"


def test_splitting_a_stake_does_not_help():
    draws, seats = 1200, 26
    for identities in (1, 8, 60):
        stakes = {f"honest {i:02}": 240 * 4 // 5 for i in range(20)} | {"whale": 240 * 20 * 3 // 10}
        stakes |= {f"attacker {i:02}": 240 * 5 // identities for i in range(identities)}
        attacked = [
            sum(peer.startswith("attacker") for peer in draw(b"%d" % i, "aggregator", stakes, seats))
            for i in range(draws)
        ]
        share = Fraction(1200, sum(stakes.values()))
        error = (seats * share * (1 - share) / draws) ** 0.5
        assert abs(np.mean(attacked) - seats * share) < 4.5 * error, "4.5 standard errors: a chance below 1e-5"


def test_an_attacker_cannot_fall_in_with_the_steps_of_the_ring():
    """The flaw of equal steps, and that ours does not have it. P(more than 9) is .001 by independent draws."""
    seats, draws = 32, 2500
    stakes = {f"honest {i:02}": 9 for i in range(32)} | {f"x attacker {i:02}": 1 for i in range(32)}
    rng = np.random.default_rng(5)
    corrupt = [name.startswith("x") for name in stakes]
    steps = sum(systematic(rng, list(stakes.values()), corrupt, seats) > 9 for _ in range(draws))
    assert steps > 20, "42 in the mean"
    ours = sum(
        sum(peer.startswith("x") for peer in draw(b"%d" % i, "aggregator", stakes, seats)) > 9 for i in range(draws)
    )
    assert float(binomial_above(32, Fraction(1, 10), 9)) < 0.001
    assert ours <= 10, "2.3 in the mean at the most: above 10 with a chance of 3e-5"


def test_nobody_gets_more_than_most():
    stakes = {"whale": 1000, "a": 10, "b": 10, "c": 10, "d": 10}
    for i in range(50):
        held = Counter(draw(b"%d" % i, "aggregator", stakes, 6, most=2))
        assert held.total() == 6
        assert max(held.values()) <= 2
        assert held["whale"] == 2
    assert Counter(draw(b"", "aggregator", stakes, 6))["whale"] >= 5


@pytest.mark.parametrize(
    ("stakes", "seats", "most", "message"),
    [
        ({}, 1, None, "of at least one peer"),
        ({"a": 0}, 1, None, "nobody has any stake"),
        ({"a": -1, "b": 3}, 1, None, "whole numbers"),
        ({"a": 1.5}, 1, None, "whole numbers"),
        ({"a": 1}, 0, None, "0 seats"),
        ({"a": 1, "b": 1, "c": 0}, 5, 2, "2 peers with stake cannot fill 5 seats"),
        ({"a": 1}, 1, 0, "cannot fill"),
    ],
)
def test_what_cannot_be_drawn_is_said(stakes, seats, most, message):
    with pytest.raises(SpecError, match=message) as caught:
        draw(b"", "noiser", stakes, seats, most=most)
    assert caught.value.remedy


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(1, 2**80))
def test_numbers_are_below_their_bound(beacon, bound):
    stream = Stream(beacon, "role")
    assert all(0 <= stream.below(bound) < bound for _ in range(20))


def test_numbers_are_uniform():
    stream = Stream(b"beacon", "role")
    for bound, limit in ((3, 22), (7, 32), (256, 370)):
        draws = 40 * 256
        found = Counter(stream.below(bound) for _ in range(draws))
        chi = sum((found[value] - draws / bound) ** 2 / (draws / bound) for value in range(bound))
        assert chi < limit, "chi-square: a chance below 3e-5"


def test_orders_are_uniform():
    stream = Stream(b"beacon", "role")
    found = Counter(tuple(shuffled(list("abcd"), stream)) for _ in range(4800))
    assert len(found) == 24
    assert sum((count - 200) ** 2 / 200 for count in found.values()) < 60, "23 degrees of freedom: a chance of 4e-5"
