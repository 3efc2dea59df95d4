from types import SimpleNamespace

import pytest

from coterie.adversary import attackers
from coterie.spec import AttackTable, FederationTable


def spec(peers, fraction, seed=7):
    attack = None if fraction is None else AttackTable(kind="label_flip", fraction=fraction)
    return SimpleNamespace(seed=seed, federation=FederationTable(peers=peers, seed=seed), attack=attack)


@pytest.mark.parametrize(
    ("peers", "fraction", "count"),
    [
        (10, None, 0),
        (10, 0.0, 0),
        (10, 0.3, 3),
        (10, 0.01, 1),
        (10, 0.99, 9),
        (2, 0.9, 1),
        (1, 0.5, 0),
        (1000, 0.2, 200),
    ],
)
def test_how_many(peers, fraction, count):
    found = attackers(spec(peers, fraction))
    assert len(found) == len(set(found)) == count
    assert list(found) == sorted(found)
    assert all(type(i) is int and 0 <= i < peers for i in found)


def test_the_seed_decides_who():
    assert attackers(spec(100, 0.3)) == attackers(spec(100, 0.3))
    assert attackers(spec(100, 0.3)) != attackers(spec(100, 0.3, seed=8))
