"""Gathering: sites that come in any order found one chain, whoever dies meanwhile; other terms are named."""

import asyncio
import hashlib
import random
from types import SimpleNamespace

import pytest

from coterie.errors import SpecError
from coterie.identity import Identity
from coterie.identity.vrf import VrfKey
from coterie.ledger import NullLedger
from coterie.ledger.shared import Charter, QuorumRule, Voter, Voters
from coterie.network import Codec
from coterie.protocols import Peer
from coterie.protocols.swarm import chain_genesis
from coterie.protocols.swarm.gathering import CharterBegin, CharterOffer, Gatherings
from coterie.protocols.swarm.joins import LASTS
from coterie.protocols.swarm.records import Agreed
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.spec import NetworkTable

FEDERATION = hashlib.sha256(b"a federation").digest()
GENESIS = chain_genesis(FEDERATION, "a training")
TERMS = Agreed(2, 10, False, "mean", True, "ab" * 32)


class Place:
    """Members of one federation in virtual time, by their keys; each may gather, and die."""

    def __init__(self, count, seed=0, loss=0.0):
        self.loop, self.codec, self.dice = VirtualLoop(), Codec(), random.Random(seed)
        self.network = SimulatedNetwork(NetworkTable(latency_ms=20.0, loss=loss), [])
        self.network.begin(self.loop, random.Random(f"network {seed}"))
        self.keys = [Identity.from_seed(hashlib.sha256(bytes([n])).digest()) for n in range(count)]
        self.names = [key.id for key in self.keys]
        self.tasks, self.said, self.dropped, self.gatherings, self.peers = {}, {}, [], {}, {}

    def start(self, number, contract="a training", terms=TERMS, size=5, **how):
        key = self.keys[number]
        if number not in self.peers:
            peer = Peer(
                id=key.id,
                members=self.names,
                neighbours=(),
                learner=None,
                ledger=NullLedger(),
                store=None,
                random=self.dice,
                secrets=random.Random(number),
                clock=self.loop,
                metrics=SimpleNamespace(dropped=lambda sender, error: self.dropped.append((sender, error.what))),
                transport=self.network.connect(key.id, lambda sender, frame: self.peers[number].receive(sender, frame)),
                codec=self.codec,
                identity=key,
            )
            self.peers[number] = peer
            called = {name: f"site {n}" for n, name in enumerate(self.names)}
            self.gatherings[number] = Gatherings(peer, FEDERATION, lambda: self.names, called.__getitem__)
        said = self.said.setdefault(number, [])
        work = self.gatherings[number].charter(contract, terms, size, said.append, **how)
        self.tasks[number, contract] = self.loop.create_task(work)

    def die(self, number):
        self.network.disconnect(self.names[number])
        self.peers.pop(number).close()
        for (other, _), task in self.tasks.items():
            if other == number:
                task.cancel()

    def wait(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def found(self, number, contract="a training"):
        task = self.tasks[number, contract]
        return task.result() if task.done() and not task.cancelled() else None


def voters(charter):
    return {voter.key for voter in charter.voters.members}


def test_all_that_are_there_vote_in_the_one_charter():
    place = Place(4)
    for number in (2, 0, 3):
        place.start(number)
    place.wait(10)
    found = [place.found(number) for number in (2, 0, 3)]
    assert len({charter.id for charter in found}) == 1
    assert voters(found[0]) == {place.names[number] for number in (0, 2, 3)}
    assert found[0].genesis == chain_genesis(FEDERATION, "a training")
    assert found[0].rule == QuorumRule("majority", 2)
    assert found[0].lock_epochs == LASTS
    assert all(
        voter.vrf == VrfKey.of(place.keys[place.names.index(voter.key)], found[0].genesis).public
        for voter in found[0].voters.members
    )
    assert place.dropped == []


def test_one_that_comes_later_is_given_the_charter():
    place = Place(3)
    place.start(1)
    place.wait(5)
    assert place.found(1) is None
    assert "1 of at least 2" in place.said[1][-1]
    assert "not started: site 0, site 2" in place.said[1][-1]
    place.start(2)
    place.wait(5)
    place.start(0)
    place.wait(5)
    assert place.found(0).id == place.found(1).id == place.found(2).id
    assert voters(place.found(0)) == {place.names[1], place.names[2]}


@pytest.mark.parametrize("seed", range(40))
def test_in_any_order_with_loss_and_deaths_no_two_charters_begin(seed):
    place, dice = Place(5, seed, loss=0.05), random.Random(seed)
    begun = {}
    for number in dice.sample(range(5), 5):
        place.start(number)
        place.wait(dice.uniform(0, 1.5))
        if dice.random() < 0.3:
            victim = dice.choice(list(place.peers))
            if place.found(victim) is None:
                place.die(victim)
                place.wait(dice.uniform(0, 2))
                place.start(victim)
    place.wait(60)
    for (number, _), task in place.tasks.items():
        assert task.done(), place.said[number][-1:]
        begun[number] = place.found(number)
    assert len({charter.id for charter in begun.values()}) == 1


def test_a_convener_that_dies_after_the_promises_keeps_nobody_from_beginning():
    place = Place(3)
    for number in range(3):
        place.start(number)
    place.wait(0.9)  # the second look is under way
    place.die(0)
    place.wait(40)
    assert place.found(1).id == place.found(2).id


def test_a_charter_by_which_nothing_was_merged_gives_way_to_the_others():
    place = Place(3)
    place.start(1)
    place.start(2)
    place.wait(5)
    own = Voters.of([Voter(place.names[0], VrfKey.of(place.keys[0], GENESIS).public, 1)])
    kept = Charter.make(place.keys[0], GENESIS, own, bytes(32), QuorumRule("majority", 1))
    place.start(0, kept=kept)
    place.wait(5)
    assert place.found(0).id == place.found(1).id
    place.start(0, contract="another", kept=kept, begun=True)
    place.wait(5)
    assert place.found(0, "another").id == kept.id


def test_who_comes_later_on_other_terms_is_told_whose():
    place = Place(3)
    place.start(0)
    place.wait(3)
    place.start(1, terms=Agreed(2, 20, False, "mean", True, "cd" * 32), size=7)
    place.wait(3)
    with pytest.raises(
        SpecError, match=r"at site 0: the model is another one \(7 numbers here and 5 there\), sync_fre"
    ):
        place.tasks[1, "a training"].result()
    assert "site 1 trains on other terms" in "".join(place.said[0])
    place.gatherings[1].leave("a training")
    place.start(2)
    place.wait(5)
    assert voters(place.found(0)) == {place.names[0], place.names[2]}


def test_a_model_of_the_same_size_is_told_in_what_it_may_differ():
    place = Place(2)
    place.start(0)
    place.wait(3)
    place.start(1, terms=Agreed(2, 10, False, "mean", True, "cd" * 32))
    place.wait(3)
    with pytest.raises(SpecError, match=r"another one \(in names, .* dtypes .* or in the frozen base of an adapter\)"):
        place.tasks[1, "a training"].result()


def test_other_trainings_are_named_and_go_on_beside():
    place = Place(4)
    place.start(0, contract="a")
    place.start(1, contract="b")
    place.wait(3)
    assert "site 1 trains 'b'" in place.said[0][-1]
    place.start(2, contract="a")
    place.start(3, contract="b")
    place.wait(5)
    assert voters(place.found(0, "a")) == {place.names[0], place.names[2]}
    assert voters(place.found(1, "b")) == {place.names[1], place.names[3]}


def test_a_federation_that_is_too_small_is_told():
    place = Place(2)
    place.start(0, terms=Agreed(3, 10, False, "mean", True, "ab" * 32))
    place.wait(2)
    assert "the federation has 2 members: invite others" in place.said[0][-1]


def test_a_charter_that_was_kept_does_where_nobody_has_another():
    place = Place(2)
    place.start(0)
    place.start(1)
    place.wait(5)
    kept = place.found(1)
    for number in (0, 1):
        place.die(number)
    place.start(1, kept=kept)
    place.wait(5)
    assert place.found(1).id == kept.id


def test_one_that_comes_while_they_look_is_in():
    place = Place(3)
    place.start(0)
    place.start(1)
    place.wait(0.4)
    place.start(2)
    place.wait(5)
    assert voters(place.found(2)) == set(place.names)


def test_a_promise_holds_until_it_ends():
    place = Place(4)
    place.start(0)
    place.start(2)
    place.wait(0.2)
    offered = charter(place, place.keys[0], [0, 2])
    (reply,) = place.loop.run_until_complete(place.peers[0].ask_all([place.names[2]], offered, 1.0))
    assert reply.given
    place.die(0)
    place.start(1)
    place.start(3)
    place.wait(7)
    assert [place.found(number) for number in (1, 2, 3)] == [None] * 3
    place.wait(10)
    assert place.found(1).id == place.found(2).id == place.found(3).id


def charter(place, signer, members, contract="a training"):
    genesis = chain_genesis(FEDERATION, contract)
    own = [Voter(key.id, VrfKey.of(key, genesis).public, 1) for key in (place.keys[number] for number in members)]
    made = Charter.make(signer, genesis, Voters.of(own), bytes(32))
    return CharterOffer("a training", made.encode())


@pytest.mark.parametrize("lie", ["none", "garbage", "of another training", "of somebody else", "without this site"])
def test_charters_that_are_no_good_are_refused(lie):
    place = Place(3)
    for number in (0, 1):
        place.start(number, terms=Agreed(3, 10, False, "mean", True, "ab" * 32))
    place.wait(1)
    liar, victim = place.peers[0], place.peers[1]
    offer = charter(
        place,
        place.keys[2 if lie == "of somebody else" else 0],
        [0] if lie == "without this site" else [0, 1],
        "b" if lie == "of another training" else "a training",
    )
    if lie == "garbage":
        offer = CharterOffer("a training", b"?")

    async def ask():
        (reply,) = await liar.ask_all([victim.id], offer, 1.0)
        liar.send(victim.id, CharterBegin("a training", offer.charter))
        await asyncio.sleep(2)
        return reply is not None and reply.given

    assert place.loop.run_until_complete(ask()) == (lie == "none")
    assert (place.found(1) is not None) == (lie == "none")
    assert bool(place.dropped) == (lie in ("garbage", "of another training"))


def test_only_the_first_of_those_there_may_convene():
    place = Place(3)
    for number in (0, 1):
        place.start(number, terms=Agreed(3, 10, False, "mean", True, "ab" * 32))
    place.wait(1)
    offer = charter(place, place.keys[1], [0, 1])
    (reply,) = place.loop.run_until_complete(place.peers[1].ask_all([place.names[0]], offer, 1.0))
    assert not reply.given


def test_one_whose_random_function_has_no_usable_key_keeps_nobody_from_beginning(monkeypatch):
    place, of = Place(3), VrfKey.of

    def lie(identity, genesis):
        return SimpleNamespace(public=bytes(32)) if identity is place.keys[2] else of(identity, genesis)

    monkeypatch.setattr(VrfKey, "of", lie)
    for number in (2, 0, 1):
        place.start(number)
    place.wait(20)
    found = [place.found(number) for number in (0, 1)]
    assert all(found) and voters(found[0]) == voters(found[1]) == {place.names[0], place.names[1]}
    place.die(2)
    place.wait(0.1)
