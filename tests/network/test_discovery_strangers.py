"""Addresses without an owner: offered ever more rarely, and within limits."""

from coterie.network.discovery import Address, StrangerLimits
from coterie.network.discovery.strangers import Strangers


def at(number):
    return Address.of("h.example", number)


def test_offered_at_once_then_ever_more_rarely_then_dropped():
    strangers = Strangers(StrangerLimits(retry_seconds=10, most_retry_seconds=50, offers=5))
    strangers.add(at(1))
    offers = [second for second in range(1000) if strangers.due(float(second))]
    assert offers == [0, 10, 30, 70, 120]
    assert at(1) not in strangers


def test_the_operators_are_always_offered():
    strangers = Strangers(
        StrangerLimits(retry_seconds=10, most_retry_seconds=50, offers=2, offers_a_minute=1, addresses=3)
    )
    strangers.configure([at(1), at(2)])
    strangers.add(at(3))
    assert strangers.due(0.0) == [at(1), at(2), at(3)]
    assert len([second for second in range(1, 1000) if at(1) in strangers.due(float(second))]) > 15
    strangers.known(at(1))
    assert at(1) in strangers
    assert at(3) not in strangers


def test_so_many_are_kept_and_those_tried_in_vain_give_way():
    strangers = Strangers(StrangerLimits(addresses=3))
    assert [strangers.add(at(port)) for port in (1, 2, 3, 4, 3)] == [True, True, True, False, False]
    strangers.due(0.0)
    assert strangers.add(at(4))
    assert (len(strangers), at(4) in strangers) == (3, True)
    strangers.known(at(4))
    assert len(strangers) == 2


def test_so_many_are_offered_in_a_minute():
    strangers = Strangers(StrangerLimits(offers_a_minute=6, addresses=1000, retry_seconds=1e6))
    for port in range(1, 500):
        strangers.add(at(port))
    assert [len(strangers.due(now)) for now in (0.0, 0.0, 5.0, 10.0, 70.0, 1000.0, 900.0)] == [6, 0, 0, 1, 6, 6, 0]
