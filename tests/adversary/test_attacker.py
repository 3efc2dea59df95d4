"""The wrapper of a malicious peer's learner, over a peer and a learner that only remember."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch

from coterie.adversary import Attacker
from coterie.protocols import Fitted

MEMBERS = ("a", "b", "c", "d")


class Snap:
    def __init__(self, *values):
        self.values = torch.tensor(values)

    def tensor(self):
        return self.values


class Learner:
    samples = 12

    def __init__(self):
        self.calls = []

    async def fit(self, round, steps=None):
        return Fitted(Snap(1.0, round), 0.5)

    async def craft(self, others, round, attackers):
        self.calls.append(("craft", sorted(others), round, attackers))
        return Snap(-1.0, round)

    async def aggregate(self, received, round, *, degree, state=None, rule=None):
        self.calls.append(("aggregate", sorted(received), degree, state, rule))
        return "mixed"

    async def adopt(self, snapshot):
        self.calls.append(("adopt", snapshot.tensor().tolist()))

    async def snapshot(self):
        return "mine"


class World:
    """What ``Attacker`` uses of a Peer; ``answers`` is who answers a pull."""

    def __init__(self, answers=("a", "d")):
        self.members, self.asked, self.answers, self.kept = MEMBERS, [], answers, {}
        self.clock = SimpleNamespace(time=iter(range(100)).__next__)
        self.store = SimpleNamespace(get=self.kept.get, put=self.kept.__setitem__)

    async def pull(self, whom, round, timeout):
        assert timeout == 3, "1 s, and twice the 1 s that a fit takes by this clock"
        self.asked.append((tuple(whom), round))
        return {peer: object() for peer in whom if peer in self.answers}


def attacker(world, learner, *, sees_others=True):
    return Attacker(world, learner, ["b", "c"], sees_others=sees_others)


def test_it_crafts_from_honest_peers_of_this_round():
    world, learner = World(), Learner()
    fitted = asyncio.run(attacker(world, learner).fit(4))
    assert world.asked == [(("a", "d"), 4)]
    assert learner.calls == [("craft", ["a", "d"], 4, 2)]
    assert (fitted.snapshot.tensor().tolist(), fitted.loss) == ([-1, 4], 0.5)


def test_it_goes_on_without_a_silent_peer_and_shows_its_own_model_where_all_are_silent():
    world, learner = World(answers=("d",)), Learner()
    asyncio.run(attacker(world, learner).fit(0))
    assert learner.calls == [("craft", ["d"], 0, 2)]
    alone, learner = World(answers=()), Learner()
    fitted = asyncio.run(attacker(alone, learner).fit(0))
    assert learner.calls == []
    assert fitted.snapshot.tensor().tolist() == [1, 0]
    assert not alone.kept


def test_an_attack_that_needs_nobody_asks_nobody():
    world, learner = World(answers=()), Learner()
    fitted = asyncio.run(attacker(world, learner, sees_others=False).fit(3))
    assert world.asked in ([], [((), 3)])
    assert fitted.snapshot.tensor().tolist() == [-1, 3]


def test_it_mixes_without_its_colluders():
    learner = Learner()
    mixed = asyncio.run(attacker(World(), learner).aggregate(dict.fromkeys(MEMBERS), 2, degree=3, state=5, rule="mean"))
    assert mixed == "mixed"
    assert learner.calls == [("aggregate", ["a", "d"], 3, 5, "mean")]


@pytest.mark.parametrize("back", [0, 1])
def test_a_crafted_vector_handed_back_after_a_crash_becomes_its_own_again(back):
    world = World()
    before = attacker(world, Learner())
    for round in range(5):
        asyncio.run(before.fit(round))
    learner = Learner()
    again = attacker(world, learner)  # a new process: nothing is left but the store
    asyncio.run(again.adopt(Snap(-1.0, 4 - back)))
    assert learner.calls == [("adopt", [1, 4 - back])]
    assert len(world.kept["attack"]) == 2, "it must not keep all it ever showed"


def test_any_other_vector_is_taken_as_it_is():
    learner = Learner()
    one = attacker(World(), learner)
    asyncio.run(one.adopt(Snap(7.0, 7.0)))
    asyncio.run(one.fit(0))
    asyncio.run(one.adopt(Snap(7.0, 8.0)))
    assert [call for call in learner.calls if call[0] == "adopt"] == [("adopt", [7, 7]), ("adopt", [7, 8])]
    assert asyncio.run(one.snapshot()) == "mine"
    assert one.samples == 12
