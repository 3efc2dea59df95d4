"""Sites that leave say so: nobody waits for them, and their votes are not missed."""

from __future__ import annotations

import pytest

from coterie.ledger.records import Record
from coterie.ledger.shared import QuorumRule
from coterie.protocols.consensus import Payload
from coterie.protocols.swarm import Settings

SILENT = Settings(full_wait=60.0, deadline=300.0, silence=40.0)
"""One that says nothing is waited for very long."""


@pytest.mark.parametrize("seed", range(4))
def test_nobody_waits_at_the_end(worlds, seed):
    world = worlds(count=4, seed=seed, settings=SILENT).begin()
    world.until(lambda: any(node.state.over for node in world.nodes.values()))
    assert world.until(lambda: all(node.done for node in world.nodes.values())) < 3.0
    world.finish()
    for node in world.nodes.values():
        others = [key for key in world.keys.values() if key != node.identity.id]
        assert not any(node.swarm.training.lacks_the_end(key) for key in others)


def test_one_that_has_the_last_block_and_not_its_model_is_waited_for(worlds):
    world = worlds(count=3, seed=1).begin()  # another leads the last merge
    slow = world.nodes["s2"]
    get, held = slow.swarm.training.models.get, []

    async def never(digest, whom, at_once=1):
        if held:
            return None
        return await get(digest, whom, at_once)

    slow.swarm.training.models.get = never
    world.until(lambda: slow.state.epoch == 4)
    held.append(True)
    world.until(lambda: slow.state.over)
    world.wait(1.0)
    assert slow.swarm.training.merged is None
    assert world.nodes["s0"].swarm.training.lacks_the_end(slow.identity.id)
    assert not world.nodes["s0"].done
    held.clear()
    world.finish()


@pytest.mark.parametrize("seed", range(3))
def test_one_that_leaves_is_not_waited_for_and_is_heard_when_it_is_back(worlds, seed):
    world = worlds(count=4, rounds=12, seed=seed, settings=SILENT, lock=10).begin()
    leaves, others = world.nodes["s1"], [world.nodes[name] for name in ("s0", "s2", "s3")]
    world.until(lambda: leaves.state.epoch == 2)
    leaves.leave()
    epoch = max(node.state.epoch for node in others)
    assert world.until(lambda: min(node.state.epoch for node in others) >= epoch + 4) < 10.0
    key = leaves.identity.id
    assert all(
        key not in node.ledger.chain.state.voters and len(node.ledger.chain.state.voters) == 3 for node in others
    )
    leaves.start()
    world.until(lambda: any("s1" in adopted.shared for adopted in others[0].site.adopted[-2:]), 20)
    world.finish()


def test_one_that_is_back_votes_again_when_its_key_is_free(worlds):
    world = worlds(count=3, rounds=30, lock=10).begin()
    leaves, other = world.nodes["s1"], world.nodes["s0"]
    world.until(lambda: leaves.state.epoch == 2)
    leaves.leave()
    world.until(lambda: leaves.identity.id not in other.ledger.chain.state.voters, 30)
    leaves.start()
    world.until(lambda: leaves.identity.id in other.ledger.chain.state.voters, 60)
    assert other.state.epoch < 25
    joins = [r for e in range(other.state.epoch) for r in _records(other, e) if r.kind == "voter join"]
    assert len(joins) == 1, "a join that cannot count was recorded"
    world.finish()


def test_two_of_five_go_on_when_the_others_have_left_one_by_one(worlds):
    world = worlds(count=5, rounds=15, settings=SILENT).begin()
    stay = [world.nodes["s0"], world.nodes["s4"]]
    for name in ("s1", "s2", "s3"):
        epoch = stay[0].state.epoch
        world.until(lambda: min(node.state.epoch for node in stay) >= epoch + 3, 30)  # noqa: B023
        world.nodes[name].leave()
    world.until(lambda: all(node.done for node in stay), 60)
    assert stay[0].final == stay[1].final
    assert not any(reason for node in stay for _, reason in node.site.reasons)


def test_no_leave_is_recorded_that_leaves_too_few(worlds):
    world = worlds(count=3, rounds=6, min_peers=3, settings=Settings(full_wait=5.0, deadline=60.0)).begin()
    leaves, other = world.nodes["s1"], world.nodes["s0"]
    world.until(lambda: leaves.state.epoch == 2)
    leaves.leave()
    world.until(lambda: other.site.reasons and other.site.reasons[-1][1])
    assert "2 of 3" in other.site.reasons[-1][1]
    leaves.start()
    world.finish()
    assert len(other.ledger.chain.state.following) == 3
    assert other.ledger.chain.state.rule == QuorumRule("majority", 3)


def _records(node, epoch):
    batch = node.ledger.blocks(epoch, 0)
    return [] if batch is None else [record for full in batch.blocks for record in full.read_records()]


@pytest.mark.parametrize("kind", ["majority", "two thirds"])
def test_a_leave_is_of_no_use_once_its_author_has_checked_in_again(worlds, kind):
    """A leader that lies has kept it, and would record it whenever it leads."""
    world = worlds(count=5, rounds=30, kind=kind).begin()
    back, liar = world.nodes["s1"], world.nodes["s3"]
    key, ordering, tried = back.identity.id, liar.swarm._ordering, []
    world.until(lambda: back.state.epoch == 2)
    back.leave()
    leave = Record.decode(liar.swarm.training.roll.heard[key].beat.leave)
    back.start()  # before the next merge: nobody has recorded that it left
    others = [node for node in world.nodes.values() if node is not back]
    world.until(lambda: all(node.state.checked_in[key] > 2 for node in others))
    payload = ordering.payload

    async def lie(view):
        found = await payload(view)
        if found is None or key not in liar.ledger.chain.state.following:
            return found
        tried.append(view.epoch)
        return Payload([*(record for record in found.records if record.id != leave.id), leave], closes=True)

    ordering.payload = lie
    world.until(lambda: len(tried) >= 2 and min(node.state.epoch for node in others) > max(tried), 200)
    for node in others:
        assert key in node.ledger.chain.state.following
        assert not [r for e in range(node.state.epoch) for r in _records(node, e) if r.kind == "voter leave"]


def _records(node, epoch):
    batch = node.ledger.blocks(epoch, 0)
    return [] if batch is None else [record for full in batch.blocks for record in full.read_records()]
