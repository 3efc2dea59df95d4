"""What sites of a training see of each other, and what a liar can do."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import pytest
import torch
from swarm_world import LAYOUT, SIZE, snapshot

from coterie.errors import RunError, SpecError
from coterie.ledger.records import Record
from coterie.network import MemorySnapshot
from coterie.protocols.swarm import Mode, Settings, Terms
from coterie.protocols.swarm.messages import SwarmBeat, SwarmProposal
from coterie.protocols.swarm.models import channel_of

QUICK = Settings(full_wait=1.0, deadline=60.0)


def leaders(world, name="s0"):
    return [adopted.leader for adopted in world.nodes[name].site.adopted]


def test_leading_is_shared_evenly(worlds):
    world = worlds(count=4, rounds=12).begin()
    world.finish()
    assert Counter(leaders(world)) == dict.fromkeys(world.names, 3)
    assert {node.site.merges for node in world.nodes.values()} == {3}


def test_the_merged_model_is_the_mean_of_what_was_checked_in(worlds):
    world = worlds(count=3, rounds=1).begin()
    steps = []
    for name in world.names:
        dice = torch.Generator().manual_seed(sum(name.encode()) * 1000)
        steps.append(torch.randn(8, generator=dice))
    world.finish()
    mean = torch.stack(steps).double().mean(0).float()
    torch.testing.assert_close(world.nodes["s1"].site.vector, mean)


def test_loss_metric_and_epochs_are_shared_with_all(worlds):
    world = worlds(count=3, rounds=4)
    for number, node in enumerate(world.nodes.values()):
        node.site.loss = lambda round, number=number: 1.0 / (1 + round) + number
    world.begin().finish()
    shared = world.nodes["s0"].site.adopted[2].shared
    assert {name: part.loss for name, part in shared.items()} == {"s0": 1 / 3, "s1": 1 + 1 / 3, "s2": 2 + 1 / 3}
    assert {part.epochs for part in shared.values()} == {3}
    assert sum(part.weight for part in shared.values()) == pytest.approx(1)


def test_a_node_weight_may_change_at_any_time(worlds):
    world = worlds(count=3, rounds=6).begin()
    world.until(lambda: world.nodes["s0"].state.epoch == 3)
    world.nodes["s1"].site.weight = 8
    world.finish()
    weights = [adopted.shared["s1"].weight for adopted in world.nodes["s0"].site.adopted]
    assert weights[:3] == [pytest.approx(1 / 3)] * 3
    assert weights[-1] == pytest.approx(0.8)


@pytest.mark.parametrize("mode", list(Mode))
def test_what_stands_for_a_site_that_is_done(worlds, mode):
    world = worlds(count=3, rounds=6, sites={"s2": {"mode": mode}})
    world.nodes["s2"].site.rounds = 3
    world.begin().finish()
    site = world.nodes["s2"].site
    assert site.trained == 3
    last = world.nodes["s0"].site.adopted[-1]
    assert last.shared["s2"].finished
    expected = {Mode.SNAPSHOT: 1 / 3, Mode.ACTIVE: 1 / 3, Mode.INACTIVE: 0.0}[mode]
    assert last.shared["s2"].weight == pytest.approx(expected)
    own = world.nodes["s2"].swarm._pending.snapshot.tensor()
    others = sum(world.nodes[name].swarm._pending.snapshot.tensor() for name in ("s0", "s1"))
    before = world.nodes["s0"].site.adopted[-2].snapshot.tensor()
    stands = {Mode.SNAPSHOT: own, Mode.ACTIVE: before, Mode.INACTIVE: torch.zeros(8)}[mode]
    count = 2 if mode is Mode.INACTIVE else 3
    torch.testing.assert_close(last.snapshot.tensor(), (others + stands) / count)


def test_the_interval_follows_the_losses_at_all_sites_alike(worlds):
    world = worlds(count=3, rounds=7, terms=Terms("adaptive", 2, 16, adaptive=True))
    for node in world.nodes.values():
        node.site.loss = lambda round: [9.0, 5.0, 4.0, 3.0, 3.5, 4.0, 5.0][round]
    world.begin().finish()
    found = [[adopted.next_interval for adopted in node.site.adopted] for node in world.nodes.values()]
    assert found[0] == found[1] == found[2]
    assert found[0][:6] == [16, 20, 25, 31, 15, 7]


def test_sites_with_different_models_open_with_the_first_leaders(worlds):
    world = worlds(count=3, rounds=4, terms=Terms("opening", 2, 8, opening=True))
    starts = {}
    for number, node in enumerate(world.nodes.values()):
        node.site.vector = starts[node.name] = torch.full((8,), float(number + 1))
        check_in = node.site.check_in

        async def first(round, node=node, check_in=check_in):
            if node.site.adopted:
                return await check_in(round)
            made = snapshot(node.site.vector)
            return replace(await check_in(round), snapshot=made, digest=made.digest(), steps=0)

        node.site.check_in = first
    world.begin().finish()
    opening = world.nodes["s0"].site.adopted[0]
    assert opening.round == 1
    assert torch.equal(opening.snapshot.tensor(), starts[opening.leader])
    assert opening.shared[opening.leader].weight == 1


def test_one_on_other_terms_is_named_and_told(worlds, caplog):
    world = worlds(count=4, rounds=3, settings=QUICK)
    odd = world.nodes["s3"]
    odd.site.terms = Terms("a training", 2, 64)
    with caplog.at_level(logging.ERROR, "coterie.swarm"):
        world.begin()
        world.loop.run_until_complete(asyncio.sleep(30))
    assert "s3 trains on other terms: sync_frequency 8 here and 64 there" in caplog.text
    error = odd.task.exception()
    assert isinstance(error, SpecError) and "sync_frequency 64 here and 8 there" in str(error)
    others = [node for node in world.nodes.values() if node is not odd]
    assert all(node.done for node in others) and len({node.final for node in others}) == 1
    odd.alive = False


def test_two_and_two_on_different_terms_end_with_the_reason(worlds):
    world = worlds(count=4, rounds=3, settings=Settings(full_wait=1.0, deadline=10.0))
    for name in ("s2", "s3"):
        world.nodes[name].site.terms = Terms("a training", 2, 64)
    world.begin()
    world.loop.run_until_complete(asyncio.sleep(60))
    for node in world.nodes.values():
        assert isinstance(node.task.exception(), RunError)
        node.alive = False
    assert "On other terms: s2, s3" in str(world.nodes["s0"].task.exception()).replace("s3, s2", "s2, s3")


# Liars


def test_a_leader_that_passes_off_another_model_is_caught_by_whoever_recomputes(worlds):
    settings = replace(QUICK, recompute=True)
    world = worlds(count=4, rounds=6, kind="two thirds", settings=settings)
    world.nodes["s2"].site.lie = lambda merged: merged + 1
    world.begin().until(lambda: all(n.done for n in world.nodes.values() if n.name != "s2"))
    assert "s2" not in leaders(world)
    caught = {name for name, sender, what in world.dropped if sender == "s2" and "is not the merge" in what}
    assert caught == {"s0", "s1", "s3"}


def test_with_honest_leaders_taken_for_granted_a_lie_stands_under_the_liars_name(worlds):
    world = worlds(count=4, rounds=4)
    world.nodes["s2"].site.lie = lambda merged: merged + 100
    world.begin().finish()
    lied = next(adopted for adopted in world.nodes["s0"].site.adopted if adopted.leader == "s2")
    assert lied.snapshot.tensor().mean() > 50
    block = world.nodes["s0"].ledger.blocks(lied.round - 1, 0).blocks[0]
    (merge,) = [record for record in block.read_records() if record.kind == "swarm merge"]
    assert merge.author == world.keys["s2"]


def test_a_model_with_another_hash_than_it_was_checked_in_with_is_not_merged(worlds):
    world = worlds(count=4, rounds=3, settings=QUICK)
    liar = world.nodes["s1"]
    check_in = liar.site.check_in

    async def lying(round):
        return replace(await check_in(round), digest=bytes(32))

    liar.site.check_in = lying
    world.begin().wait(20.0)
    assert world.nodes["s0"].state.epoch >= 1
    merged = [adopted.shared for node in world.nodes.values() for adopted in node.site.adopted]
    led = {adopted.leader for node in world.nodes.values() for adopted in node.site.adopted}
    assert all("s1" not in shared for shared in merged) or "s1" in led
    assert any(sender == "s1" and "another hash" in what for _, sender, what in world.dropped)


def test_what_no_honest_peer_says_is_dropped_and_counted(worlds):
    world = worlds(count=3, rounds=5, late=("s9",)).begin()
    world.until(lambda: world.nodes["s0"].swarm.training.check_in is not None)
    world.keys.pop("s9")
    world.nodes["s9"].start()
    liar, record = world.nodes["s1"], world.nodes["s0"].swarm.training.check_in.record
    liar.peer.send("s2", SwarmBeat(0, record.encode(), True, 0, (), b"", False, b""))
    liar.peer.send("s2", SwarmBeat(0, b"nonsense", True, 0, (), b"", False, b""))
    other = Record.make(liar.identity, "note", {"text": "x"}, time=0)
    liar.peer.send("s2", SwarmProposal((other.encode(),)))
    liar.peer.send("s2", SwarmProposal((record.encode(),)))
    liar.peer.send("s2", SwarmBeat(0, b"", True, 0, (), b"not a join", False, b"not a leave"))
    world.wait(0.3)
    said = [what for name, sender, what in world.dropped if (name, sender) == ("s2", "s1")]
    assert any("not the sender's own" in what for what in said)
    assert any("not a record" in what for what in said)
    assert any("0 merges" in what for what in said)
    assert any(sender == "s9" and "no member" in what for _, sender, what in world.dropped)
    world.nodes["s9"].die()
    del world.nodes["s9"]
    world.finish()


def test_a_shorter_model_is_not_merged_and_stops_nobody(worlds):
    world = worlds(count=4, rounds=3, settings=QUICK)
    liar = world.nodes["s1"]
    check_in = liar.site.check_in

    async def lying(round):
        made = MemorySnapshot(LAYOUT.hash, torch.zeros(SIZE - 1))
        return replace(await check_in(round), snapshot=made, digest=made.digest())

    async def idle(parts, last, round):
        await asyncio.Event().wait()

    liar.site.check_in, liar.site.merge = lying, idle  # where it leads, the next one does after a while
    world.begin()
    world.until(lambda: any(sender == "s1" and "another layout" in what for _, sender, what in world.dropped))
    world.until(lambda: world.nodes["s0"].state.epoch >= 1)


def test_models_are_let_go_of(worlds):
    world = worlds(count=3, rounds=20).begin()
    world.finish()
    for node in world.nodes.values():
        assert len(node.memory.published) <= 3
        assert channel_of(node.state.merged) in node.memory.published
        assert node.memory.published[channel_of(node.state.merged)].vector.layout_hash == LAYOUT.hash
