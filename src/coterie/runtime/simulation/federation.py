"""A whole federation in virtual time: its peers, their crashes, and the barriers at which all of it can be saved.

A run is a sequence of segments, each in an event loop of its own. A segment ends when every peer stands before the
barrier's round, or has finished; then no job, message or timer is under way, and what is left is explicit: stores,
vectors, what peers have published, and the clock. The next segment starts from that, in the same run or, read back from
a checkpoint, in another one, and cannot tell the difference.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.adversary import malicious_learner
from coterie.errors import Deadlock
from coterie.identity import Identity
from coterie.ledger import NullLedger
from coterie.ledger.shared import SharedMemory
from coterie.network import Codec
from coterie.protocols import Mixed, Neighbourhood, Peer, PeerId, PeerMemory, Topology
from coterie.protocols.consensus import ChainTerms, PeerChain
from coterie.registry import guarded
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.chains import SimulatedChains
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.jobs import Jobs
from coterie.runtime.simulation.observer import Observer, Report
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.runtime.work.learner import JobLearner, Workplace
from coterie.runtime.work.protocol import live
from coterie.runtime.work.tickets import Executor
from coterie.seeds import generator, stdlib_random
from coterie.spec import Spec

_ALLOCATIONS = 20_000
"""After how many new objects the garbage collector looks for cycles during a run."""


class MemoryStore:
    """A simulated disk: what is put is kept through a crash, and what was put by reference stays as it was."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def put(self, key: str, value: Any) -> None:
        self.values[key] = value

    put_durably = put


@dataclass
class Member:
    """A peer as the runtime sees it: what stays when its process dies."""

    index: int
    number: int
    id: PeerId
    attacker: bool
    learner: JobLearner
    store: MemoryStore
    neighbours: Sequence[PeerId]
    identity: Identity
    memory: PeerMemory = field(default_factory=PeerMemory)
    chain: SharedMemory | None = None
    """Its copy of the shared chain, once its protocol has asked for it."""
    mixed: Mixed | None = None
    round: int = 0
    """The one it has begun."""
    starts: int = 0
    crashed: bool = False
    """Its process died and has not started again."""
    finished: bool = False
    arrived: bool = False
    """It stands before the barrier."""
    peer: Peer | None = None
    task: asyncio.Task[None] | None = None


@dataclass
class Federation:
    """The peers of one run. ``place.jobs``, ``loop`` and the network's wires are new in every segment."""

    spec: Spec
    executor: Executor
    place: Workplace
    topology: Topology
    ids: Sequence[PeerId]
    numbers: Sequence[int]
    """Each peer's number in the spec."""
    samples: Sequence[int]
    """Training samples of each peer."""
    attackers: frozenset[PeerId]
    on_record: Callable[[PeerMetrics], None]
    on_round: Callable[[int, list[float], int], None]
    stop: threading.Event = field(default_factory=threading.Event)
    segment: int = 0
    """How many barriers lie behind."""
    now: float = 0.0
    """Virtual time at the end of the last segment."""
    jobs: Jobs = field(init=False)
    """Those of this segment."""

    def __post_init__(self) -> None:
        spec, count = self.spec, len(self.samples)
        self.honest = count - len(self.attackers)
        self.network = SimulatedNetwork(spec.network, spec.faults.partitions)
        self.network.name_groups(dict(zip(self.numbers, self.ids, strict=True)))
        self.codec = Codec()
        self.observer = Observer(self, self.on_record, self.on_round)
        identities = [_identity(spec.seed, number) for number in self.numbers]
        speeds = generator(spec.seed, "speed").lognormal(0.0, spec.compute.spread, spec.federation.peers)
        self.members = [
            Member(
                index,
                self.numbers[index],
                self.ids[index],
                self.ids[index] in self.attackers,
                JobLearner(
                    self.place,
                    index,
                    self.ids[index],
                    self.samples[index],
                    spec.compute.seconds_per_step * float(speeds[self.numbers[index]]),
                ),
                MemoryStore(),
                Neighbourhood(self.ids, self.topology.adjacency[index]),
                identities[index],
            )
            for index in range(count)
        ]

        self._at, self._slowest = Counter({0: count}), 0
        """How many peers are in each round, and the first of these rounds."""
        who = {member.id: member.identity for member in self.members}
        self.chains = SimulatedChains(bytes.fromhex(spec.hash), who, lambda: int(1000 * self.loop.time()))

    @property
    def barrier(self) -> int | None:
        """The round that peers do not begin before all have come that far; None where no barrier lies ahead."""
        every = self.spec.run.checkpoint_every
        round = (self.segment + 1) * every
        return round if 0 < round < self.spec.federation.rounds else None

    def run(self, on_barrier: Callable[[], None] = lambda: None) -> None:
        """Run to the end of the last peer; ``on_barrier()`` is called at each barrier, when nothing is under way.

        Raises what went wrong at any of the peers; Deadlock says who waits for what.
        """
        while True:
            with _fewer_collections():
                self._run_segment()
            if all(member.finished for member in self.members):
                return
            self.segment += 1
            on_barrier()

    def _run_segment(self) -> None:
        failures: list[BaseException] = []
        self.loop = loop = VirtualLoop(self.stop, self.now)
        self.place.jobs = self.jobs = Jobs(loop, self.executor)
        self.network.begin(loop, stdlib_random(self.spec.seed, "network", self.segment))

        def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if isinstance(error := context.get("exception"), Exception):
                failures.append(error)
                loop.stop()

        loop.set_exception_handler(fail)
        try:
            loop.run_until_complete(self._main())
            self.now = loop.time()
        except Deadlock as error:
            raise self._deadlock(error) from None
        except RuntimeError:
            if not failures:
                raise
        finally:
            self._wind_up()
        if failures:
            with guarded(self.spec.protocol.component, "federation.protocol, answering a message"):
                raise failures[0]

    def _deadlock(self, error: Deadlock) -> Deadlock:
        waiting = [m for m in self.members if not m.finished and not m.arrived]
        named = "; ".join(f"{m.id} waits for {m.peer.waits_for()}" for m in waiting[:5] if m.peer)
        return Deadlock(
            error.what,
            where=f"at {self.loop.time():.3f} s of virtual time",
            remedy=f"{named}. A protocol must not wait without a time-out.",
        )

    def _wind_up(self) -> None:
        """Cancel whatever still waits, so that nothing outlives the segment."""
        loop = self.loop
        loop.set_exception_handler(lambda _, context: None)
        loop.instants.stop = threading.Event()  # what stopped the run must not stop this
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _main(self) -> None:
        """One segment: the lives of all peers, until each has finished or stands before the barrier."""
        self._over: asyncio.Future[None] = self.loop.create_future()
        living = [member for member in self.members if not member.finished]
        for member in self.members:
            member.arrived = False
            if member.finished:
                member.peer = self._peer(member, False)  # it still answers
        self._on_the_way = len(living)
        lives = [asyncio.create_task(self._live(member), name=member.id) for member in living]
        for life in lives:
            life.add_done_callback(self._ended)
        try:
            await self._over
        finally:
            for life in lives:
                life.cancel()
        self.jobs.finish()
        for member in self.members:
            if member.peer is not None:
                member.peer.close()

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not self._over.done() and not life.cancelled() and (error := life.exception()) is not None:
            self._over.set_exception(error)

    def _one_less(self) -> None:
        """A peer has arrived or finished; the segment ends when nobody is on the way any more."""
        self._on_the_way -= 1
        if not self._on_the_way and not self._over.done():
            self._over.set_result(None)

    async def _live(self, member: Member) -> None:
        """One peer, through crashes, from the start of a segment to its end or to that of its protocol."""
        faults = self.spec.faults
        dice = stdlib_random(self.spec.seed, "crash", member.number, self.segment)
        while True:
            member.task = asyncio.create_task(self._once(member), name=member.id)
            crash: asyncio.TimerHandle | None = None
            if faults.crashes_per_minute:
                crash = self.loop.call_later(dice.expovariate(faults.crashes_per_minute / 60), self._crash, member)
            try:
                await member.task
            except asyncio.CancelledError:
                this = asyncio.current_task()
                if not member.task.cancelled() or (this is not None and this.cancelling()):
                    raise  # the segment ends; the peer has not crashed
                await asyncio.sleep(faults.restart_seconds)
                continue
            finally:
                if crash is not None:
                    crash.cancel()
            member.finished = True
            self._one_less()
            return

    async def _once(self, member: Member) -> None:
        first, returned = member.starts == 0, member.crashed
        member.starts += 1
        member.crashed = False
        peer = member.peer = self._peer(member, returned)
        if first or returned:
            await member.learner.reset()
        await live(self.spec, peer)

    def _begins(self, member: Member, round: int) -> None:
        """What was published for rounds that all have behind them is let go."""
        self._at[member.round] -= 1
        member.round = round
        self._at[round] += 1
        if not self._at[self._slowest]:
            self._at = +self._at
            self._slowest = min(self._at)
            for each in self.members:
                if each.peer is not None:
                    each.peer.forget(self._slowest)

    def _peer(self, member: Member, returned: bool) -> Peer:
        spec, seed, start = self.spec, self.spec.seed, member.starts
        peer: Peer

        def receive(sender: PeerId, frame: Any) -> None:
            peer.receive(sender, frame)

        async def meet(round: int) -> None:
            self._begins(member, round)
            if self.barrier is not None and round >= self.barrier:
                member.arrived = True
                self._one_less()
                await self.loop.create_future()  # the segment ends before this does

        async def open_chain(terms: ChainTerms) -> PeerChain:
            member.chain, chain = self.chains.open(terms, member.chain, member.store)
            return chain

        peer = Peer(
            id=member.id,
            members=self.ids,
            neighbours=member.neighbours,
            learner=member.learner,
            ledger=NullLedger(),
            store=member.store,
            random=stdlib_random(seed, "peer", member.number, start),
            secrets=stdlib_random(seed, "secrets", member.number, start),
            clock=self.loop,
            metrics=Report(member, self.observer),
            transport=self.network.connect(member.id, receive),
            codec=self.codec,
            memory=member.memory,
            identity=member.identity,
            returned=returned,
            meet=meet,
            open_chain=open_chain,
        )
        if member.attacker:
            peer.learner = malicious_learner(spec, peer, member.learner, self.attackers)
        return peer

    def _crash(self, member: Member) -> None:
        """The peer's process dies: its tasks, its waiting jobs and its memory are gone; its store stays."""
        if member.task is None or member.task.done():
            return
        self._on_the_way += member.arrived
        member.crashed, member.arrived = True, False
        member.memory = replace(member.memory, published={})
        self.network.disconnect(member.id)
        self.jobs.drop(member.index)
        if member.peer is not None:
            member.peer.close()
        member.task.cancel()


def _identity(seed: int, number: int) -> Identity:
    """A simulated peer's key: the same in every run of the seed, through crashes too."""
    return Identity.from_seed(hashlib.sha256(f"coterie simulated identity {seed} {number}".encode()).digest())


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for cycles less often: thousands of peers are many objects to look through, few of them ever garbage."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _ALLOCATIONS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
