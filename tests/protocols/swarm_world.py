"""Sites of one training in virtual time, over the simulation's own network: crashes, partitions, loss, slow ones."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from coterie.aggregation.merging import Vectors, merge
from coterie.identity import Identity
from coterie.identity.vrf import VrfKey
from coterie.layout import Layout, Slot
from coterie.ledger import NullLedger
from coterie.ledger.shared import Charter, QuorumRule, SharedMemory, Signatures, Voter, Voters
from coterie.network import Codec, MemorySnapshot
from coterie.protocols import Peer, PeerMemory
from coterie.protocols.swarm import Adopted, CheckedIn, Mode, Settings, Swarm, Terms, chain_genesis
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.spec import NetworkTable, PartitionFault

SIZE = 8
LAYOUT = Layout((Slot("w", (SIZE,), (1,), "float32", 0),), SIZE, SIZE)
FEDERATION = hashlib.sha256(b"a swarm").digest()


def identity(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(f"swarm {name}".encode()).digest())


def snapshot(vector: torch.Tensor) -> MemorySnapshot:
    return MemorySnapshot(LAYOUT.hash, vector.clone())


class Disk:
    """A store that survives its peer."""

    def __init__(self) -> None:
        self.values = {}

    def get(self, key):
        return self.values.get(key)

    def put(self, key, value) -> None:
        self.values[key] = value

    put_durably = put


class Site:
    """Adds a step of its own direction for each batch, and says what happened. ``seconds``: an interval takes so long.

    The vector survives crashes, as that of a simulated learner's store does, unless ``remembers`` is False.
    """

    def __init__(self, node, terms, rounds, seconds=1.0, weight=1, mode=Mode.SNAPSHOT) -> None:
        self.node, self.terms, self.rounds, self.seconds = node, terms, rounds, seconds
        self.weight, self.mode, self.layout, self.remembers = weight, mode, LAYOUT, True
        self.vector = torch.zeros(SIZE)
        self.trained, self.adopted, self.reasons, self.merges = 0, [], [], 0
        self.interval = terms.sync_frequency
        self.loss = None
        self.method, self.lie = "mean", None
        self.merge_seconds = 0.05

    async def check_in(self, round):
        await asyncio.sleep(self.seconds)
        dice = torch.Generator().manual_seed(sum(self.node.name.encode()) * 1000 + self.trained)
        self.vector = self.vector + torch.randn(SIZE, generator=dice)
        self.trained += 1
        made = snapshot(self.vector)
        return CheckedIn(
            made,
            made.digest(),
            weight=self.weight,
            steps=self.interval,
            epochs=self.trained,
            loss=self.loss(round) if self.loss else None,
            ending=max(self.trained, round + 1) >= self.rounds,
            mode=self.mode,
        )

    async def merge(self, parts, last, round):
        self.merges += 1
        await asyncio.sleep(self.merge_seconds)
        models = Vectors({part.peer: part.snapshot.tensor() for part in parts})
        merged = merge(models, [part.weight for part in parts], self.method).vector
        return snapshot(merged if self.lie is None else self.lie(merged))

    async def digest(self, found):
        return hashlib.sha256(found.tensor().numpy().astype("<f4").tobytes()).digest()

    async def adopt(self, adopted: Adopted) -> None:
        assert not self.adopted or adopted.round >= self.adopted[-1].round
        self.vector, self.interval = adopted.snapshot.tensor().clone(), adopted.next_interval
        self.adopted.append(adopted)

    def blocked(self, reason) -> None:
        self.reasons.append((self.node.world.loop.time(), reason))


class Node:
    """One site: what its disk holds, and its process, which may die and start again."""

    def __init__(self, world, name, **how) -> None:
        self.world, self.name, self.identity = world, name, identity(name)
        self.disk, self.memory, self.starts, self.alive, self.task = Disk(), PeerMemory(), 0, False, None
        self.ledger = SharedMemory(world.charter, world.known)
        self.site = Site(self, world.terms, world.rounds, **how)

    def start(self) -> None:
        world = self.world
        returned = self.starts > 0
        self.starts, self.alive = self.starts + 1, True
        self.memory = PeerMemory()
        peer = Peer(
            id=self.name,
            members=world.names,
            neighbours=[],
            learner=SimpleNamespace(samples=1),
            ledger=NullLedger(),
            store=self.disk,
            random=random.Random(f"{world.seed}/{self.name}/{self.starts}"),
            secrets=random.Random(f"secrets/{world.seed}/{self.name}/{self.starts}"),
            clock=world.loop,
            metrics=SimpleNamespace(
                dropped=lambda sender, error: world.dropped.append((self.name, sender, error.what)),
                round_done=lambda round, loss, mixed: None,
            ),
            transport=world.network.connect(self.name, lambda sender, frame: peer.receive(sender, frame)),
            codec=world.codec,
            identity=self.identity,
            memory=self.memory,
            returned=returned,
        )
        self.peer = peer
        self.swarm = Swarm(
            peer, self.site, self.ledger, world.settings, key_of=world.keys.get, peer_of=world.peer_of.get
        )
        self.task = world.loop.create_task(self.swarm.run())

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.world.network.disconnect(self.name)
            self.task.cancel()
            self.peer.close()

    def leave(self) -> None:
        """As a script that ends, or that its user has interrupted."""
        self.alive = False
        self.task.cancel()
        self.swarm.leave()
        self.world.loop.run_until_complete(asyncio.sleep(0.2))
        self.world.network.disconnect(self.name)
        self.peer.close()

    @property
    def state(self):
        return self.swarm.training.state

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done() and not self.task.cancelled()

    @property
    def final(self) -> str:
        assert self.site.adopted[-1].over
        return hashlib.sha256(self.site.vector.numpy().tobytes()).hexdigest()


@dataclass
class World:
    """Sites ``s0`` ... of one training; ``late``: names that are members, and neither vote nor run at first."""

    count: int = 4
    rounds: int = 5
    seed: int = 0
    min_peers: int = 2
    terms: Terms | None = None
    settings: Settings = field(default_factory=lambda: Settings(full_wait=5.0, deadline=60.0))
    sites: dict = field(default_factory=dict)
    late: tuple = ()
    kind: str = "majority"
    network: dict = field(default_factory=dict)
    partitions: tuple = ()
    lock: int = 100

    def __post_init__(self) -> None:
        self.terms = self.terms or Terms("a training", self.min_peers, 8)
        voters = [f"s{number}" for number in range(self.count)]
        self.names = [*voters, *self.late]
        self.keys = {name: identity(name).id for name in self.names}
        self.peer_of = {key: name for name, key in self.keys.items()}
        self.dropped, self.codec, self.known, self.faults = [], Codec(), Signatures(), []
        self.loop = VirtualLoop()
        table = {"latency_ms": 20.0, "jitter": 0.5, "bandwidth_mbps": 1000.0, **self.network}
        faults = [PartitionFault(**fault) for fault in self.partitions]
        self.network = SimulatedNetwork(NetworkTable(**table), faults)
        self.network.begin(self.loop, random.Random(f"network/{self.seed}"))
        self.network.name_groups(dict(enumerate(self.names)))
        genesis = chain_genesis(FEDERATION, self.terms.contract)
        members = [Voter(self.keys[name], VrfKey.of(identity(name), genesis).public, 1) for name in voters]
        beacon = hashlib.sha256(f"beacon {self.seed}".encode()).digest()
        rule = QuorumRule(self.kind, self.min_peers)
        self.charter = Charter.make(identity("founder"), genesis, Voters.of(members), beacon, rule, self.lock)
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self.nodes = {name: Node(self, name, **self.sites.get(name, {})) for name in self.names}

    def part(self, *names, seconds) -> None:
        """From now on these hear nobody else, and nobody else hears them."""
        now = self.loop.time()
        self.network._groups.append((now, now + seconds, {name: name in names for name in self.names}))

    def begin(self, *names) -> World:
        for name in names or [name for name in self.names if name not in self.late]:
            self.nodes[name].start()
        return self

    def wait(self, seconds) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for node in self.nodes.values():
            if node.done and node.alive:
                node.task.result()
        assert self.faults == []

    def until(self, condition, seconds=300.0) -> float:
        """Virtual seconds until ``condition()`` holds; at most ``seconds``."""
        start = self.loop.time()
        while not condition():
            assert self.loop.time() < start + seconds, self.report()
            self.wait(0.1)
        return self.loop.time() - start

    def finish(self, seconds=300.0) -> str:
        """Run to the end of all; the one hash of all final models."""
        self.until(lambda: all(node.done for node in self.nodes.values()), seconds)
        hashes = {node.final for node in self.nodes.values()}
        assert len(hashes) == 1, "different final models"
        merged = {node.state.merged for node in self.nodes.values()}
        assert len(merged) == 1 and merged.pop().hex() == next(iter(hashes)), "not what the chain says"
        return hashes.pop()

    def report(self) -> str:
        lines = [
            f"{node.name}: done {node.done}, epoch {node.state.epoch}, blocked {node.swarm.training.blocked}, "
            f"idle {node.swarm.training.idle}, held {len(node.swarm.training.proposals)}, "
            f"{node.swarm.consensus.stands} {node.swarm.consensus.waits_for()}"
            for node in self.nodes.values()
            if node.alive
        ]
        return "\n".join([f"t = {self.loop.time():.1f}", *lines, f"dropped {self.dropped[-5:]}"])

    def close(self) -> None:
        for node in self.nodes.values():
            node.die()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
