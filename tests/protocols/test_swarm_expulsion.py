"""Members that are expelled in mid-training, and members that say what no block may hold, do not stop the others."""

from __future__ import annotations

import msgspec
import pytest
from swarm_world import identity

from coterie.identity.vrf import VrfKey
from coterie.ledger.encoding import pack
from coterie.ledger.records import Record
from coterie.ledger.shared import Join
from coterie.protocols.consensus import Payload


def expel(world, name) -> str:
    """Its process ends, and no peer knows it as a member any more."""
    world.nodes[name].die()
    world.names.remove(name)
    key = world.keys.pop(name)
    del world.peer_of[key]
    return key


def go_on(world, *names, merges=4) -> list:
    nodes = [world.nodes[name] for name in names]
    epoch = max(node.state.epoch for node in nodes)
    world.until(lambda: min(node.state.epoch for node in nodes) >= epoch + merges, 60)
    return nodes


@pytest.mark.parametrize("kind", ["majority", "two thirds"])
def test_a_voter_that_is_expelled_votes_no_more_and_stops_nobody(worlds, kind):
    world = worlds(count=5, rounds=12, kind=kind).begin()
    world.until(lambda: world.nodes["s1"].state.epoch == 2)
    key = expel(world, "s1")
    for node in go_on(world, "s0", "s2", "s3", "s4"):
        assert key not in node.ledger.chain.state.voters


def test_one_that_is_expelled_before_its_consent_to_vote_is_recorded_stops_nobody(worlds):
    world = worlds(count=3, rounds=12, late=("s3",)).begin()
    others = [world.nodes[name] for name in ("s0", "s1", "s2")]
    world.until(lambda: others[0].state.epoch == 2)
    world.nodes["s3"].start()
    key = identity("s3").id
    world.until(lambda: all(key in node.swarm.training.roll.heard for node in others))
    assert all(node.swarm.training.roll.heard[key].beat.join for node in others)
    expel(world, "s3")
    for node in go_on(world, "s0", "s1", "s2"):
        assert key not in node.ledger.chain.state.following


def test_a_merge_with_a_check_in_of_one_that_is_expelled_before_the_vote_is_made_anew(worlds):
    world = worlds(count=3, rounds=12, late=("s3",)).begin()
    others = [world.nodes[name] for name in ("s0", "s1", "s2")]
    for node in others:
        node.site.merge_seconds = 0.5
    world.nodes["s3"].start()
    key = identity("s3").id

    def proposed():
        held = [p for node in others for p in node.swarm.training.proposals.values()]
        return any(key in [c.author for c in p.found.check_ins] for p in held)

    while not proposed():
        world.wait(0.005)
    assert all(key not in node.ledger.chain.state.following for node in others)
    expel(world, "s3")
    go_on(world, "s0", "s1", "s2")


@pytest.mark.parametrize("weight", [2, 100])
def test_a_consent_to_more_than_one_vote_stops_nobody(worlds, monkeypatch, weight):
    def greedy(own, genesis, epoch):
        return pack(Join.make(own, genesis, VrfKey.of(own, genesis).public, weight, epoch + 10))

    monkeypatch.setattr("coterie.protocols.swarm.leading.make_join", greedy)
    world = worlds(count=3, rounds=12, late=("s3",)).begin()
    world.until(lambda: world.nodes["s0"].state.epoch == 1)
    world.nodes["s3"].start()
    for node in go_on(world, "s0", "s1", "s2"):
        assert identity("s3").id not in node.ledger.chain.state.following


@pytest.mark.parametrize("samples", [1 << 32, 1 << 40])
def test_samples_that_nobody_can_have_end_no_training_of_others(worlds, samples):
    world = worlds(count=4, rounds=6).begin()
    liar = world.nodes["s3"]
    world.until(lambda: liar.state.epoch == 1)
    beat = liar.swarm._leading.beat

    def lie():
        said = beat()
        if not said.check_in:
            return said
        record = Record.decode(said.check_in)
        content = record.content | {"samples": samples}
        return msgspec.structs.replace(said, check_in=Record.make(liar.identity, record.kind, content, time=0).encode())

    liar.swarm._leading.beat = lie
    go_on(world, "s0", "s1", "s2", merges=3)
    assert all(liar.identity.id not in world.nodes[name].state.parts for name in ("s0", "s1", "s2"))


def test_a_leader_that_proposes_no_merge_gets_no_vote(worlds):
    """A merge is all of its epoch: blocks without one could go on and on where the network is slow."""
    world = worlds(count=4, rounds=8).begin()
    tried = []

    async def nothing(view):
        tried.append(view.height)
        return Payload()

    world.nodes["s3"].swarm._ordering.payload = nothing
    (node, *_) = go_on(world, "s0", "s1", "s2", merges=6)
    assert tried
    for epoch in range(node.state.epoch):
        assert [full.block.closes for full in node.ledger.blocks(epoch, 0).blocks] == [True]
