"""A whole federation in virtual time: its peers, their crashes, and what is written down about them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.errors import CoterieError, Deadlock
from coterie.ledger import NullLedger
from coterie.network import Codec
from coterie.protocols import Mixed, Neighbourhood, Peer, PeerId, Topology
from coterie.runtime.results import PeerMetrics
from coterie.runtime.simulation.clock import VirtualLoop
from coterie.runtime.simulation.learner import SimulatedLearner, Workplace
from coterie.runtime.simulation.transport import SimulatedNetwork
from coterie.seeds import generator, stdlib_random
from coterie.spec import Spec
from coterie.training import Evaluation


class MemoryStore:
    """A simulated disk: what is put is kept through a crash, and what was put by reference stays as it was."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value


@dataclass
class _Report:
    """One peer's metrics: evaluates its vector at the end of the rounds that are watched."""

    member: _Member
    observer: Observer

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        member, federation = self.member, self.observer.federation
        if mixed is not None:
            member.mixed = mixed
            for sender in mixed.refused:
                self.observer.count_dropped(sender)
        table, rounds = federation.spec.evaluation, federation.spec.federation.rounds
        if (round + 1) % table.every and round + 1 < rounds:
            return
        moment, sent, last = federation.loop.time(), federation.network.bytes_sent[member.id], member.mixed

        def done(evaluation: Evaluation) -> None:
            self.observer.record(
                PeerMetrics(
                    round=round,
                    peer=member.id,
                    index=member.index,
                    attacker=member.attacker,
                    time=moment,
                    accuracy=evaluation.accuracy,
                    loss=evaluation.loss,
                    train_loss=loss,
                    bytes_sent=sent,
                    weights=dict(last.weights) if last else {},
                    trust=dict(last.trust) if last and last.trust is not None else None,
                )
            )

        member.learner.evaluate(table.samples, done)

    def dropped(self, sender: PeerId, error: CoterieError) -> None:
        self.observer.count_dropped(sender)


@dataclass
class Observer:
    """Collects what peers report, and says when a round has been seen at every peer."""

    federation: Federation
    on_record: Callable[[PeerMetrics], None]
    on_round: Callable[[int, list[float], int], None]
    """(round, accuracy of each honest peer that reported it, bytes sent by all so far)."""
    dropped: dict[PeerId, int] = field(default_factory=dict)
    """Frames and vectors refused, by sender."""
    _accuracies: dict[int, list[float]] = field(default_factory=dict)

    def count_dropped(self, sender: PeerId) -> None:
        """Something of this sender's was refused."""
        self.dropped[sender] = self.dropped.get(sender, 0) + 1

    def record(self, metrics: PeerMetrics) -> None:
        self.on_record(metrics)
        if not metrics.attacker:
            seen = self._accuracies.setdefault(metrics.round, [])
            seen.append(metrics.accuracy)
            if len(seen) == self.federation.honest:
                self.on_round(metrics.round, seen, sum(self.federation.network.bytes_sent.values()))
                del self._accuracies[metrics.round]


@dataclass
class _Member:
    """A peer as the runtime sees it: what stays when its process dies."""

    index: int
    number: int
    id: PeerId
    attacker: bool
    learner: SimulatedLearner
    store: MemoryStore
    neighbours: Sequence[PeerId]
    mixed: Mixed | None = None
    starts: int = 0
    peer: Peer | None = None
    task: asyncio.Task[None] | None = None
    finished: bool = False


@dataclass
class Federation:
    """The peers of one run, living in one virtual loop."""

    spec: Spec
    loop: VirtualLoop
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

    def __post_init__(self) -> None:
        spec, count = self.spec, len(self.samples)
        self.honest = count - len(self.attackers)
        self.network = SimulatedNetwork(
            self.loop, spec.network, spec.faults.partitions, stdlib_random(spec.seed, "network")
        )
        self.network.name_groups(dict(zip(self.numbers, self.ids, strict=True)))
        self.codec = Codec()
        self.observer = Observer(self, self.on_record, self.on_round)
        speeds = generator(spec.seed, "speed").lognormal(0.0, spec.compute.spread, spec.federation.peers)
        self.members = [
            _Member(
                index,
                self.numbers[index],
                self.ids[index],
                self.ids[index] in self.attackers,
                SimulatedLearner(
                    self.place,
                    index,
                    self.ids[index],
                    self.samples[index],
                    spec.compute.seconds_per_step * float(speeds[self.numbers[index]]),
                ),
                MemoryStore(),
                Neighbourhood(self.ids, self.topology.adjacency[index]),
            )
            for index in range(count)
        ]

    def run(self) -> None:
        """Run to the end of the last peer. Raises what went wrong at any of them; Deadlock says who waits for what."""
        failures: list[BaseException] = []

        def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if isinstance(error := context.get("exception"), Exception):
                failures.append(error)
                loop.stop()

        self.loop.set_exception_handler(fail)
        try:
            self.loop.run_until_complete(self._main())
        except Deadlock as error:
            waiting = [m for m in self.members if not m.finished]
            named = "; ".join(f"{m.id} waits for {m.peer.waits_for()}" for m in waiting[:5] if m.peer)
            raise Deadlock(
                error.what,
                where=f"at {self.loop.time():.3f} s of virtual time",
                remedy=f"{named}. A protocol must not wait without a time-out.",
            ) from None
        except RuntimeError:
            if not failures:
                raise
        finally:
            self._wind_up()
        if failures:
            raise failures[0]

    def _wind_up(self) -> None:
        """Cancel whatever still waits, so that nothing outlives the run."""
        self.loop.set_exception_handler(lambda loop, context: None)
        self.loop.instants.stop = threading.Event()  # what stopped the run must not stop this
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _main(self) -> None:
        lives = [asyncio.create_task(self._live(member), name=member.id) for member in self.members]
        try:
            await asyncio.gather(*lives)
        finally:
            for life in lives:
                life.cancel()
        self.place.jobs.finish()

    async def _live(self, member: _Member) -> None:
        """One peer from its start to the end of its protocol, through crashes."""
        faults = self.spec.faults
        dice = stdlib_random(self.spec.seed, "crash", member.number)
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
                    raise  # the run ends; the peer has not crashed
                await asyncio.sleep(faults.restart_seconds)
                continue
            finally:
                if crash is not None:
                    crash.cancel()
            member.finished = True
            return

    async def _once(self, member: _Member) -> None:
        member.starts += 1
        peer = member.peer = self._peer(member)
        await member.learner.reset()
        await self.spec.protocol(peer, self.spec.federation.rounds)

    def _peer(self, member: _Member) -> Peer:
        seed, start = self.spec.seed, member.starts
        peer: Peer

        def receive(sender: PeerId, frame: Any) -> None:
            peer.receive(sender, frame)

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
            metrics=_Report(member, self.observer),
            transport=self.network.connect(member.id, receive),
            codec=self.codec,
        )
        return peer

    def _crash(self, member: _Member) -> None:
        """The peer's process dies: its tasks, its waiting jobs and its memory are gone; its store stays."""
        if member.task is None or member.task.done():
            return
        self.network.disconnect(member.id)
        self.place.jobs.drop(member.index)
        if member.peer is not None:
            member.peer.close()
        member.task.cancel()
