"""One voter on real files, a SharedStore and a node's StateStore, among others in memory; killed, and damaged."""

import pytest
from consensus_world import GENESIS, Killed, World

from coterie.ledger.shared import SharedStore
from coterie.protocols.consensus import create
from coterie.runtime.node.store import StateStore
from coterie.runtime.work.memory import Arena, SharedMemory

LAYOUT = "ab" * 32


@pytest.fixture
def made(tmp_path):
    memory = SharedMemory()
    arena = Arena(memory, 4, 2)
    world = World([1] * 4, seed=3, closing=3, pace=0.1)
    victim = world.nodes["p1"]

    def reopen() -> None:
        victim.die()
        world.loop.run_until_complete(world.loop.create_task(_nothing()))
        if isinstance(victim.ledger, SharedStore):
            victim.ledger.close()
        victim.disk = StateStore(tmp_path / "state", arena, LAYOUT)
        victim.ledger = SharedStore(tmp_path / "chain.sqlite", world.charter)

    reopen()
    create(victim.disk, GENESIS)
    yield world, victim, reopen
    world.check_prefixes()
    world.close()
    victim.ledger.close()
    memory.close()


async def _nothing() -> None:
    """Let what was cancelled end."""


def test_it_comes_back_with_what_it_had(made, tmp_path):
    world, victim, reopen = made
    world.begin()
    for _ in range(3):
        before = world.progress()
        world.until(lambda before=before: world.progress() >= before + 4, 60)
        known = len(victim.chain)
        reopen()
        victim.start()
        world.wait(0)
        assert len(victim.chain) >= known - 1
    assert world.nodes["p0"].consensus.evidence == {}
    assert len(victim.machine.state.voters) == 4
    assert (tmp_path / "state" / "consensus.state").exists()


def test_killed_in_the_middle_of_a_write(made):
    world, victim, reopen = made
    world.begin()
    for number in range(4):
        put, count = victim.disk.put_durably, [0]

        def bomb(key, value, put=put, count=count, number=number):
            count[0] += 1
            if count[0] == 3 + number:
                if number % 2:
                    put(key, value)
                victim.die()
                raise Killed
            put(key, value)

        victim.disk.put_durably = bomb
        world.until(lambda: not victim.alive, 60)
        reopen()
        victim.start()
    before = world.progress()
    world.until(lambda: world.progress() >= before + 6, 60)
    assert all(node.consensus.evidence == {} for node in world.honest)


def test_a_damaged_log_is_no_log(made, tmp_path):
    world, victim, reopen = made
    world.begin()
    world.until(lambda: world.progress() >= 4, 60)
    reopen()
    path = tmp_path / "state" / "consensus.state"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    epoch = max(node.machine.state.epoch for node in world.up)
    victim.start()
    world.wait(0.01)
    assert not victim.machine.votes
    world.until(lambda: victim.machine.votes, 100)
    assert victim.machine.state.epoch >= epoch + 2
    before = world.progress()
    world.until(lambda: world.progress() >= before + 3, 60)
    assert all(node.consensus.evidence == {} for node in world.honest)
