"""The simulated network against arithmetic: latency, bandwidth, loss, partitions, dead peers."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from coterie.network import Frame
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.spec import NetworkTable, PartitionFault

IDS = ("a", "b", "c")


class World:
    def __init__(self, partitions: list[PartitionFault] | None = None, **table: float) -> None:
        self.loop = VirtualLoop()
        settings = NetworkTable(**{"latency_ms": 10.0, "jitter": 0.0, "bandwidth_mbps": 8.0, "loss": 0.0, **table})
        self.network = SimulatedNetwork(settings, partitions or [])
        self.network.begin(self.loop, Random(3))
        self.network.name_groups(dict(enumerate(IDS)))
        self.arrived: list[tuple[str, str, float]] = []
        self.failed: list[float] = []
        self.ends = {peer: self.network.connect(peer, self.receiver(peer)) for peer in IDS}

    def receiver(self, me: str) -> Any:
        return lambda sender, frame: self.arrived.append((sender, me, self.loop.time()))

    def post(self, sender: str, to: str, nbytes: int) -> None:
        frame = Frame(b"x" * (nbytes - 8), ())
        assert frame.nbytes == nbytes
        self.ends[sender].post(to, frame, lambda: self.failed.append(self.loop.time()))

    def run(self, seconds: float = 100.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


def test_a_frame_takes_its_length_over_the_bandwidth_and_the_latency() -> None:
    world = World()
    world.post("a", "b", 1_000_000)  # 8 Mbit at 8 Mbit/s: 1 s, and 10 ms
    world.run()
    assert world.arrived == [("a", "b", pytest.approx(1.01))]
    assert world.ends["a"].bytes_sent == 1_000_000


def test_frames_of_one_sender_queue_for_its_uplink_and_others_do_not_wait() -> None:
    world = World()
    for to in ("b", "c"):
        world.post("a", to, 1_000_000)
    world.post("b", "c", 500_000)
    world.run()
    assert sorted(world.arrived) == [
        ("a", "b", pytest.approx(1.01)),
        ("a", "c", pytest.approx(2.01)),
        ("b", "c", pytest.approx(0.51)),
    ]


def test_jitter_adds_at_most_its_share_of_the_latency() -> None:
    world = World(jitter=0.5, latency_ms=100.0, bandwidth_mbps=1e6)
    for _ in range(300):
        world.post("a", "b", 100)
    world.run()
    times = [time for *_, time in world.arrived]
    assert len(times) == 300
    assert 0.1 <= min(times) < 0.105
    assert 0.145 < max(times) < 0.151


def test_about_the_stated_share_of_frames_is_lost_without_notice() -> None:
    world = World(loss=0.2, bandwidth_mbps=1e6)
    for _ in range(2000):
        world.post("a", "b", 100)
    world.run()
    assert 1540 < len(world.arrived) < 1660  # 1600, five standard deviations are 89
    assert world.failed == []
    assert world.ends["a"].bytes_sent == 200_000


def test_a_frame_to_a_dead_peer_fails_after_the_latency() -> None:
    world = World()
    world.network.disconnect("b")
    world.post("a", "b", 1000)
    world.run()
    assert world.arrived == []
    assert world.failed == [pytest.approx(0.011)]


def test_a_partition_stops_frames_between_its_sides_and_heals() -> None:
    world = World([PartitionFault(at=1.0, seconds=2.0, groups=[[0], [1]])])

    async def main() -> None:
        for _ in range(5):
            world.post("a", "b", 100)  # parted from 1 to 3
            world.post("c", "a", 100)  # c is in no group: parted from both
            await asyncio.sleep(1.0)

    world.loop.run_until_complete(main())
    world.run()
    assert [round(time) for sender, _, time in world.arrived if sender == "a"] == [0, 3, 4]
    assert [round(time) for sender, _, time in world.arrived if sender == "c"] == [0, 3, 4]
    assert world.failed == []
