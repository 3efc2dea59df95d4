"""A simulated peer's learner: each call becomes a job with a virtual duration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from coterie.layout import Layout, Snapshot
from coterie.protocols import Fitted, Mixed, Model, PeerId
from coterie.protocols.peer import require_idle
from coterie.runtime.simulation.jobs import Jobs
from coterie.runtime.simulation.memory import Arena, Block, SharedSnapshot
from coterie.runtime.simulation.work import (
    AggregateJob,
    AggregateOutcome,
    CopyJob,
    EvaluateJob,
    FitJob,
    FitOutcome,
    PeerBlocks,
)
from coterie.spec import Spec
from coterie.training import Evaluation
from coterie.training.optimizers import state_rows
from coterie.training.vector import LocalState


@dataclass(frozen=True)
class Workplace:
    """What all simulated learners of a run share."""

    spec: Spec
    layout: Layout
    arena: Arena
    jobs: Jobs
    initial: Block
    """The initial vector, the same for all peers."""
    founders: frozenset[PeerId]


class SimulatedLearner:
    """Implements ``PeerLearner``. ``seconds_per_step``: this peer's own, so that slow peers are slow."""

    def __init__(self, place: Workplace, index: int, peer: PeerId, samples: int, seconds_per_step: float) -> None:
        self._place, self._index, self._id, self._samples = place, index, peer, samples
        self._seconds_per_step = seconds_per_step
        arena, table = place.arena, place.spec.training
        self.blocks = PeerBlocks(
            vector=arena.take(),
            base=arena.take(),
            velocity=arena.take() if table.quasi_global_momentum else None,
            optimizer=tuple(arena.take() for _ in range(state_rows(table))) if table.optimizer_state == "keep" else (),
        )
        self._count = 0
        self._steps = self._expected_steps()
        self.local: LocalState | None = None
        """Buffers of the module that do not travel."""
        self._busy = False

    @property
    def samples(self) -> int:
        return self._samples

    async def reset(self) -> None:
        """Begin, or begin again after a crash: the initial vector, and nothing remembered."""
        self._busy, self._count, self.local = False, 0, None
        await self._copy(self._place.initial, forget=True)

    async def fit(self, round: int) -> Fitted:  # noqa: A002 - the field's word
        snapshot = SharedSnapshot(self._place.arena, self._place.layout.hash)
        job = FitJob(self._index, round, self.blocks, snapshot.block, self._count, self.local)
        cost = self._expected_steps() * self._seconds_per_step
        with self._alone():
            outcome: FitOutcome = await self._place.jobs.run(self._index, job, cost, keep=snapshot)
        self._count, self.local, self._steps = outcome.count, outcome.local, outcome.report.steps
        return Fitted(snapshot, outcome.report.loss)

    async def aggregate(
        self,
        received: Mapping[PeerId, Model],
        round: int,  # noqa: A002
        *,
        degree: int,
        state: Any = None,
        rule: str | None = None,
    ) -> Mixed:
        ids, blocks, refused = [], [], []
        for peer, model in received.items():
            if isinstance(model.vector, SharedSnapshot) and model.vector.layout_hash == self._place.layout.hash:
                ids.append(peer)
                blocks.append(model.vector.block)
            else:
                refused.append(peer)
        context = {
            "own_id": self._id,
            "peer_ids": tuple(ids),
            "samples": (self._samples, *(received[peer].samples for peer in ids)),
            "founders": self._place.founders,
        }
        degrees = (degree, *(received[peer].degree for peer in ids))
        job = AggregateJob(self._index, round, self._steps, self.blocks, tuple(blocks), degrees, context, state, rule)
        with self._alone():
            outcome: AggregateOutcome = await self._place.jobs.run(
                self._index, job, self._seconds_per_step, keep=received
            )
        return Mixed(outcome.weights, outcome.trust, outcome.state, (*refused, *outcome.refused))

    async def adopt(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, SharedSnapshot):
            raise TypeError("a simulated peer adopts simulated snapshots")
        self._place.layout.require(snapshot.layout_hash, self._id)
        await self._copy(snapshot.block, keep=snapshot)

    async def snapshot(self) -> SharedSnapshot:
        copy = SharedSnapshot(self._place.arena, self._place.layout.hash)
        job = CopyJob(self._index, self.blocks.vector, copy.block)
        with self._alone():
            await self._place.jobs.run(self._index, job, 0.0, keep=copy)
        return copy

    def evaluate(self, samples: int, done: Callable[[Evaluation], None]) -> None:
        """Evaluate the vector as it is now on the test set; takes no virtual time, and nobody waits for it."""
        self._place.jobs.defer(self._index, self.evaluation(samples), done)

    def evaluation(self, samples: int) -> EvaluateJob:
        """The job that evaluates the vector on the first ``samples`` of the test set."""
        return EvaluateJob(self._index, self.blocks.vector, samples, self.local)

    async def _copy(self, source: Block, keep: object = None, *, forget: bool = False) -> None:
        clear = (self.blocks.velocity,) if forget and self.blocks.velocity is not None else ()
        with self._alone():
            await self._place.jobs.run(
                self._index, CopyJob(self._index, source, self.blocks.vector, clear), 0.0, keep=keep
            )

    def _expected_steps(self) -> int:
        steps, table = self._place.spec.local_steps, self._place.spec.training
        if steps is not None:
            return steps
        return (table.local_epochs or 1) * -(-self._samples // min(table.batch_size, self._samples))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        require_idle(self._busy, self._id)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
