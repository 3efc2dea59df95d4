"""A peer's learner: each call becomes a job, with a duration where time is virtual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.layout import Layout, Snapshot
from coterie.protocols import Fitted, Mixed, Model, PeerId
from coterie.protocols.peer import require_idle
from coterie.protocols.swarm import Part
from coterie.runtime.work.descriptions import (
    AggregateJob,
    AggregateOutcome,
    AttackJob,
    ClearJob,
    CopyJob,
    DigestJob,
    EvaluateJob,
    FitJob,
    FitOutcome,
    Job,
    JudgeJob,
    MergeJob,
)
from coterie.runtime.work.memory import Arena, Block, SharedSnapshot
from coterie.runtime.work.tickets import Jobs
from coterie.spec import Spec
from coterie.training import Evaluation
from coterie.training.optimizers import state_rows
from coterie.training.vector import LocalState


@dataclass
class Workplace:
    """What all learners of a run share."""

    spec: Spec
    layout: Layout
    arena: Arena
    initial: Block
    """The initial vector, the same for all peers."""
    jobs: Jobs = field(init=False)


@dataclass(frozen=True)
class _Held:
    """A vector of the peer: its block, and the snapshot that owns the block, if it is one."""

    block: Block
    snapshot: SharedSnapshot | None = None


@dataclass(frozen=True)
class LearnerState:
    """All that a learner is between two calls."""

    vector: Block
    base: Block
    """The vector before the last fit, or the same as ``vector``."""
    velocity: Block | None
    optimizer: tuple[Block, ...]
    count: int
    steps: int
    local: LocalState | None


class JobLearner:
    """Implements ``PeerLearner``. ``seconds_per_step``: this peer's own, so that slow peers are slow.

    No job changes a vector in place: a fit makes a snapshot from the present vector, an aggregation writes the peer's
    own block. So what has been published stays as it was, and nothing is copied to protect it.
    """

    def __init__(self, place: Workplace, index: int, peer: PeerId, samples: int, seconds_per_step: float) -> None:
        self._place, self._index, self._id, self._samples = place, index, peer, samples
        self._seconds_per_step = seconds_per_step
        arena, table = place.arena, place.spec.training
        self._block = arena.take()
        self._velocity = arena.take() if table.quasi_global_momentum else None
        kept = state_rows(table) if table.optimizer_state == "keep" else 0
        self._optimizer = tuple(arena.take() for _ in range(kept))
        self._now = self._base = _Held(place.initial)
        self._count = 0
        self._steps = self._expected_steps()
        self._local: LocalState | None = None
        self._busy = False

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def block(self) -> Block:
        """Where the peer's present vector lies."""
        return self._now.block

    @property
    def local(self) -> LocalState | None:
        """Buffers of the module that do not travel."""
        return self._local

    @property
    def state(self) -> LearnerState:
        """For saving. The blocks stay the learner's own."""
        return LearnerState(
            self._now.block, self._base.block, self._velocity, self._optimizer, self._count, self._steps, self._local
        )

    def restore(self, base: SharedSnapshot | None, count: int, steps: int, local: LocalState | None) -> LearnerState:
        """Go on from a saved state: the blocks of the one returned are for the caller to fill, but that of ``base``.

        ``base``: the vector before the last fit, where it is another one.
        """
        self._count, self._steps, self._local = count, steps, local
        self._now = _Held(self._block)
        self._base = self._now if base is None else _Held(base.block, base)
        return self.state

    async def reset(self) -> None:
        """Begin, or begin again after a crash: the initial vector, and nothing remembered."""
        self._busy, self._count, self._local = False, 0, None
        self._now = self._base = _Held(self._place.initial)
        if self._velocity is not None:
            await self._run(ClearJob(self._index, self._velocity), 0.0)

    @property
    def layout(self) -> Layout:
        return self._place.layout

    async def fit(self, round: int, steps: int | None = None) -> Fitted:
        snapshot = SharedSnapshot(self._place.arena, self._place.layout.hash)
        job = FitJob(
            self._index,
            round,
            self._now.block,
            snapshot.block,
            self._velocity,
            self._optimizer,
            self._count,
            self._local,
            steps,
        )
        cost = (self._expected_steps() if steps is None else steps) * self._seconds_per_step
        outcome: FitOutcome = await self._run(job, cost, keep=self._now, makes=snapshot)
        self._base, self._now = self._now, _Held(snapshot.block, snapshot)
        self._count, self._local, self._steps = outcome.count, outcome.local, outcome.report.steps
        return Fitted(snapshot, outcome.report.loss)

    async def aggregate(
        self,
        received: Mapping[PeerId, Model],
        round: int,
        *,
        degree: int,
        state: Any = None,
        rule: str | None = None,
    ) -> Mixed:
        ids, snapshots, refused = [], [], []
        for peer, model in received.items():
            if self._fits(model.vector):
                ids.append(peer)
                snapshots.append(self._shared(model.vector))
            else:
                refused.append(peer)
        job = AggregateJob(
            peer=self._index,
            round=round,
            steps=self._steps,
            own=self._now.block,
            base=self._base.block,
            target=self._block,
            velocity=self._velocity,
            received=tuple(snapshot.block for snapshot in snapshots),
            degrees=(degree, *(received[peer].degree for peer in ids)),
            context={
                "own_id": self._id,
                "peer_ids": tuple(ids),
                "samples": (self._samples, *(received[peer].samples for peer in ids)),
            },
            local=self._local,
            state=state,
            rule=rule,
        )
        keep = self._now, self._base, snapshots
        outcome: AggregateOutcome = await self._run(job, self._seconds_per_step, keep=keep)
        self._now = self._base = _Held(self._block)
        return Mixed(outcome.weights, outcome.trust, outcome.state, (*refused, *outcome.refused))

    async def craft(self, others: Mapping[PeerId, Model], round: int, attackers: int) -> SharedSnapshot:
        """What the spec's attack makes of the present vector, its base and others' models; takes a step's time."""
        place = self._place
        seen = [self._shared(model.vector) for model in others.values() if self._fits(model.vector)]
        blocks = tuple(snapshot.block for snapshot in seen)
        crafted = SharedSnapshot(place.arena, place.layout.hash)
        job = AttackJob(self._index, round, self._now.block, self._base.block, crafted.block, blocks, attackers)
        await self._run(job, self._seconds_per_step, keep=(self._now, self._base, seen), makes=crafted)
        return crafted

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int, method: str) -> Snapshot:
        """The models of ``parts`` merged; ``last``: the last merged one. Takes a step's time, whoever does it."""
        place = self._place
        models = [self._shared(part.snapshot) for part in parts]
        base = None if last is None else self._shared(last)
        merged = SharedSnapshot(place.arena, place.layout.hash)
        job = MergeJob(
            self._index,
            round,
            tuple(part.peer for part in parts),
            tuple(model.block for model in models),
            tuple(part.weight for part in parts),
            tuple(part.samples for part in parts),
            place.initial if base is None else base.block,
            merged.block,
            method,
        )
        await self._run(job, self._seconds_per_step, keep=(models, base), makes=merged)
        return merged

    async def digest(self, snapshot: Snapshot) -> bytes:
        """SHA-256 of the elements, 32 bytes. It may be asked for while the learner is at work, and takes no time."""
        if self._place.arena.travels or not isinstance(snapshot, SharedSnapshot):
            return snapshot.digest()
        job = DigestJob(self._index, snapshot.block)
        found: bytes = await self._place.jobs.run(self._index, job, 0.0, snapshot)
        return found

    async def judge(self) -> Evaluation | None:
        """The present vector on the peer's held-out part; None where it has none."""
        job = JudgeJob(self._index, self._now.block, self._local)
        found: Evaluation | None = await self._run(job, self._seconds_per_step, keep=self._now)
        return found

    async def adopt(self, snapshot: Snapshot) -> None:
        require_idle(self._busy, self._id)
        self._place.layout.require(snapshot.layout_hash, self._id)
        shared = self._shared(snapshot)
        self._now = self._base = _Held(shared.block, shared)

    async def snapshot(self) -> SharedSnapshot:
        copy = SharedSnapshot(self._place.arena, self._place.layout.hash)
        await self._run(CopyJob(self._index, self._now.block, copy.block), 0.0, keep=self._now, makes=copy)
        return copy

    def evaluate(self, samples: int, done: Callable[[Evaluation], None]) -> None:
        """Evaluate the vector as it is now on the test set; takes no virtual time, and nobody waits for it."""
        self._place.jobs.defer(self._index, self.evaluation(samples), done, keep=self._now)

    def evaluation(self, samples: int) -> EvaluateJob:
        """The job that evaluates the vector on the first ``samples`` of the test set."""
        return EvaluateJob(self._index, self._now.block, samples, self._local)

    async def _run(self, job: Job, cost: float, keep: object = None, makes: Snapshot | None = None) -> Any:
        require_idle(self._busy, self._id)
        self._busy = True
        try:
            return await self._place.jobs.run(self._index, job, cost, keep, makes)
        finally:
            self._busy = False

    def _fits(self, snapshot: Snapshot) -> bool:
        """Whether it is of this layout. The hash is its sender's word, and says nothing of how many elements came."""
        return (snapshot.layout_hash, snapshot.size) == (self._place.layout.hash, self._place.layout.size)

    def _shared(self, snapshot: Snapshot) -> SharedSnapshot:
        """The snapshot in the memory that jobs read: itself in a simulation, a copy of what came from elsewhere."""
        if isinstance(snapshot, SharedSnapshot):
            return snapshot
        copy = SharedSnapshot(self._place.arena, self._place.layout.hash)
        copy.tensor().copy_(snapshot.tensor())
        return copy

    def _expected_steps(self) -> int:
        steps, table = self._place.spec.local_steps, self._place.spec.training
        if steps is not None:
            return steps
        return (table.local_epochs or 1) * -(-self._samples // min(table.batch_size, self._samples))
