"""A chain's voters in virtual time, over the simulation's own network: crashes, partitions, loss, and liars."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from types import SimpleNamespace

from coterie.identity import Identity
from coterie.identity.vrf import VrfKey
from coterie.ledger import NullLedger
from coterie.ledger.records import Record
from coterie.ledger.shared import Charter, QuorumRule, SharedMemory, Signatures, Voter, Voters
from coterie.network import Codec
from coterie.protocols import Peer
from coterie.protocols.consensus import Consensus, Payload, create
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.spec import NetworkTable, PartitionFault

DELAY = 1.0
GENESIS = hashlib.sha256(b"a federation").digest()


def identity(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


def voter(name: str, weight: int = 1) -> Voter:
    who = identity(name)
    return Voter(who.id, VrfKey.of(who, GENESIS).public, weight)


class Killed(Exception):
    """A process that ends in the middle of a call."""


class Disk:
    """A store that survives its peer. ``bomb(key, number)`` is asked before and after each durable put."""

    def __init__(self) -> None:
        self.values, self.puts, self.bomb = {}, 0, lambda moment, number: None

    def get(self, key):
        return self.values.get(key)

    def put(self, key, value) -> None:
        self.values[key] = value

    def put_durably(self, key, value) -> None:
        self.puts += 1
        self.bomb("before", self.puts)
        self.values[key] = value
        self.bomb("after", self.puts)


class App:
    """Orders one record a block; every ``closing``-th block closes its epoch."""

    def __init__(self, node) -> None:
        self.node, self.chain, self.told = node, [], []
        self.resting = False
        self.extra = []
        """Records to be brought in once."""

    @property
    def stands(self):
        return self.chain[-1][:2] if self.chain else (0, 0)

    async def due(self, view):
        while self.resting:
            await asyncio.sleep(0.1)

    def _in_epoch(self, view) -> int:
        assert all((view.epoch, a.block.height) > self.stands for a in view.ancestors), "an ancestor was told before"
        return sum(epoch == view.epoch for epoch, _, _ in self.chain) + len(view.ancestors)

    def _since(self, view) -> int:
        """The same after a wait: some of the view's ancestors may have been told meanwhile."""
        told = sum(epoch == view.epoch for epoch, _, _ in self.chain)
        return told + sum((view.epoch, a.block.height) > self.stands for a in view.ancestors)

    async def payload(self, view):
        world, before = self.node.world, self._in_epoch(view)
        if world.pace:
            await asyncio.sleep(world.pace)
            before = self._since(view)
        fresh = f"{self.node.name} {self.node.starts} {view.epoch}.{view.height}"
        record = Record.make(self.node.identity, "note", {"text": fresh}, time=0)
        records = [record, *(extra for extra in self.extra if extra.id not in self.told)]
        return Payload(records, closes=before + 1 >= world.closing)

    async def accepts(self, view, block, records):
        return block.closes == (self._in_epoch(view) + 1 >= self.node.world.closing)

    def final(self, block, records):
        assert (block.epoch, block.height) > self.stands, "told twice, or out of order"
        self.chain.append((block.epoch, block.height, block.id))
        self.told += [record.id for record in records]


class Node:
    """One voter, or one that follows: what its disk holds, and its process, which may die and start again."""

    def __init__(self, world, name, kind=Consensus, new=True, start=None) -> None:
        self.world, self.name, self.kind, self.identity = world, name, kind, identity(name)
        self.disk, self.starts, self.task, self.alive = Disk(), 0, None, False
        self.ledger = SharedMemory(start or world.charter, world.known)
        if new:
            create(self.disk, GENESIS, self.ledger.chain.state.epoch)

    def start(self) -> None:
        world, self.starts, self.alive = self.world, self.starts + 1, True
        self.peer = Peer(
            id=self.name,
            members=world.names,
            neighbours=[],
            learner=None,
            ledger=NullLedger(),
            store=self.disk,
            random=random.Random(f"{world.seed}/{self.name}/{self.starts}"),
            secrets=random.Random(f"secrets/{world.seed}/{self.name}/{self.starts}"),
            clock=world.loop,
            metrics=SimpleNamespace(
                dropped=lambda sender, error: world.dropped.append((self.name, sender, error.what))
            ),
            transport=world.network.connect(self.name, lambda sender, frame: self.peer.receive(sender, frame)),
            codec=world.codec,
            identity=self.identity,
        )
        self.app = world.application(self)
        self.consensus = self.kind(
            self.peer, self.ledger, self.app, delay=DELAY, key_of=world.key_of, peer_of=world.peer_of
        )
        self.task = world.loop.create_task(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(Killed):
            await self.consensus.run()

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.world.network.disconnect(self.name)
            self.task.cancel()
            self.peer.close()

    def kill_now(self) -> None:
        """From within a call: nothing after it happens."""
        self.die()
        raise Killed

    @property
    def chain(self):
        return self.app.chain

    @property
    def machine(self):
        return self.consensus.machine


class World:
    """Voters ``p0`` ... with these weights. ``kinds`` by name: how hostile ones behave; None: not there."""

    def __init__(self, weights, seed=0, kinds=None, closing=4, rule=None, pace=0.0, **network) -> None:
        self.seed, self.closing, self.pace = seed, closing, pace
        self.dropped, self.codec, self.known, self.faults = [], Codec(), Signatures(), []
        self.names = [f"p{number}" for number in range(len(weights))]
        self.keys = {name: identity(name).id for name in self.names}
        self.application = App
        self.loop = VirtualLoop()
        partitions = network.pop("partitions", [])
        table = {"latency_ms": 100.0, "jitter": 0.5, "bandwidth_mbps": 1000.0, **network}
        self.network = SimulatedNetwork(NetworkTable(**table), [PartitionFault(**fault) for fault in partitions])
        self.network.begin(self.loop, random.Random(f"network/{seed}"))
        self.network.name_groups(dict(enumerate(self.names)))
        voters = Voters.of([voter(name, weight) for name, weight in zip(self.names, weights, strict=True)])
        beacon = hashlib.sha256(f"beacon {seed}".encode()).digest()
        self.charter = Charter.make(identity("founder"), GENESIS, voters, beacon, rule or QuorumRule())
        self.loop.set_exception_handler(self._fault)
        kinds = kinds or {}
        self.nodes = {
            name: Node(self, name, kinds.get(name, Consensus))
            for name in self.names
            if kinds.get(name, Consensus) is not None
        }
        self.liars = [name for name in self.names if name in kinds]

    def begin(self):
        for node in self.nodes.values():
            node.start()
        return self

    def _fault(self, loop, context) -> None:
        if not isinstance(context.get("exception"), Killed):
            self.faults.append(context)

    def key_of(self, peer):
        return self.keys.get(peer)

    def peer_of(self, key):
        return next((name for name, known in self.keys.items() if known == key), None)

    def add(self, name, **how) -> Node:
        self.keys[name] = identity(name).id
        self.nodes[name] = Node(self, name, **how)
        return self.nodes[name]

    def wait(self, seconds) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for node in self.nodes.values():
            if node.task is not None and node.task.done() and not node.task.cancelled():
                node.task.result()
        assert self.faults == []

    def until(self, condition, seconds) -> float:
        """Virtual seconds until ``condition()`` holds; at most ``seconds``."""
        start = self.loop.time()
        while not condition():
            assert self.loop.time() < start + seconds, self.report()
            self.wait(0.2)
        return self.loop.time() - start

    def report(self) -> str:
        lines = [
            f"{node.name}: {len(node.chain)} final, at {node.consensus.stands}, votes {node.machine.votes}, "
            f"final {node.machine.final}, {node.consensus.waits_for()}"
            for node in self.nodes.values()
            if node.alive
        ]
        return "\n".join([*lines, f"dropped {self.dropped[-5:]}"])

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.name not in self.liars and node.starts]

    @property
    def up(self) -> list[Node]:
        return [node for node in self.honest if node.alive]

    def progress(self) -> int:
        """Final blocks that every honest one that is up has been told of."""
        return min(len(node.chain) for node in self.up)

    def check_prefixes(self) -> None:
        """No fork: of any two honest chains one begins with the other."""
        longest = max((node.chain for node in self.honest), key=len)
        for node in self.honest:
            assert node.chain == longest[: len(node.chain)], "a fork"

    def leader(self):
        """The node that leads where most are."""
        machine = self.up[0].machine
        return self.peer_of(machine.state.leader(machine.height))

    def close(self) -> None:
        self.end()
        assert self.faults == []

    def end(self) -> None:
        """Whatever has gone wrong, nothing goes on."""
        for node in self.nodes.values():
            node.die()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
