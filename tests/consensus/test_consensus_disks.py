"""One voter on real files, a SharedStore and a node's StateStore, among others in memory; killed, and damaged."""

import pytest
from consensus_world import GENESIS, Disk, Killed, World
from simplex_bench import bench_led_by_others

from coterie.ledger.shared import SharedStore
from coterie.protocols.consensus import create, log, steps
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


def test_no_changed_byte_of_a_log_is_believed():
    disk = Disk()
    create(disk, GENESIS)
    data = disk.get(log.KEY)
    assert log.read(disk, GENESIS).genesis == GENESIS
    assert log.read(disk, bytes(32)) is None  # of another federation
    for changed in [*(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))), data[:-1], b""]:
        disk.put(log.KEY, changed)
        assert log.read(disk, GENESIS) is None


def test_a_restarted_voter_goes_on_at_the_height_that_it_had_come_to():
    bench = bench_led_by_others([1] * 4, (1, 2))
    bench.step(steps.Certified(bench.certificate(["p1", "p2", "p3"], "dummy", 1)))
    machine = bench.fresh()
    log.restore(machine, log.Log(GENESIS, 0, 0, 0, log.entries(bench.machine)))
    machine.start()
    assert machine.height == bench.machine.height == 2


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
