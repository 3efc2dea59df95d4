"""A site whose model and data are those of a spec: a simulated peer's, or a node's without a script."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from coterie.errors import SpecError
from coterie.layout import Layout, Snapshot
from coterie.protocols.peer import Mixed, Peer, PeerLearner
from coterie.protocols.swarm.checkin import Mode
from coterie.protocols.swarm.site import Adopted, CheckedIn, Part, Terms

_KEY = "swarm-site"
_log = logging.getLogger("coterie.swarm")
_REST = 1.0


class Judged(Protocol):
    """Figures of a model on a peer's held-out data."""

    @property
    def loss(self) -> float: ...

    @property
    def accuracy(self) -> float: ...


class MergingLearner(PeerLearner, Protocol):
    """A learner that can also merge."""

    @property
    def layout(self) -> Layout: ...

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int, method: str) -> Snapshot:
        """The models merged by a method of ``coterie.aggregation.merging``, or by ``rule``, that of the spec."""
        ...

    async def digest(self, snapshot: Snapshot) -> bytes:
        """SHA-256 of the elements, 32 bytes; also while the learner is at work."""
        ...

    async def judge(self) -> Judged | None:
        """The present vector on the peer's held-out part; None where it has none."""
        ...


class LearnerSite:
    """Implements ``SwarmSite``. It is done after ``rounds`` merges.

    A peer that falls behind, or comes late, goes on in the round of the merge that it adopts. One that trains alone
    because nothing can be merged does so for ``rounds`` intervals at most, and waits then. ``node_weight``: 1 to
    100; ``by_samples``: whether it also weighs by its training samples; ``steps``: batches an interval, None for the
    spec's.
    """

    def __init__(
        self,
        peer: Peer,
        learner: MergingLearner,
        terms: Terms,
        rounds: int,
        *,
        method: str,
        mode: Mode,
        node_weight: int,
        by_samples: bool,
        steps: int | None,
    ) -> None:
        self.terms, self.remembers = terms, True
        self._peer, self._learner, self._rounds, self._method = peer, learner, rounds, method
        self._mode, self._weight, self._by_samples = mode, node_weight, by_samples
        memory = peer.store.get(_KEY) or {
            "done": 0,
            "vector": None,
            "steps": steps,
            "figures": None,
            "loss": None,
            "told": 0,
        }
        self._done: int = memory["done"]
        """Intervals trained, or given up because others were ahead."""
        self._steps: int | None = memory["steps"]
        self._figures: list[float] | None = memory["figures"]
        """Loss and metric of the model that was adopted last."""
        self._loss: float | None = memory["loss"]
        """Of the last fit."""
        self._vector: Snapshot | None = memory["vector"]
        self._told: int = memory["told"]
        """The last merge that was reported."""
        self._lost = peer.returned and self._vector is not None

    @property
    def layout(self) -> Layout:
        return self._learner.layout

    async def check_in(self, round: int) -> CheckedIn:
        if self._lost and self._vector is not None:
            await self._learner.adopt(self._vector)
            self._lost = False
        number = max(self._done, round)
        if number >= self._rounds and self._vector is not None:
            await asyncio.sleep(_REST)
        else:
            fitted = await self._learner.fit(min(number, self._rounds - 1), self._steps)
            self._loss, self._vector = fitted.loss, fitted.snapshot
            self._peer.publish(fitted.snapshot, number)
        self._done = min(number + 1, self._rounds)
        snapshot, figures = self._vector, self._figures
        digest = await self._learner.digest(snapshot)
        self._save()
        return CheckedIn(
            snapshot,
            digest,
            weight=self._weight,
            samples=self._learner.samples if self._by_samples else 1,
            steps=self._steps or 0,
            epochs=self._done,
            loss=None if figures is None else figures[0],
            metric=None if figures is None else figures[1],
            ending=round + 1 >= self._rounds,
            mode=self._mode,
        )

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int) -> Snapshot:
        return await self._learner.merge(parts, last, round, self._method)

    async def digest(self, snapshot: Snapshot) -> bytes:
        return await self._learner.digest(snapshot)

    async def adopt(self, adopted: Adopted) -> None:
        await self._learner.adopt(adopted.snapshot)
        self._lost, self._vector = False, adopted.snapshot
        self._done = max(self._done, adopted.round)
        judged = await self._learner.judge()
        self._figures = None if judged is None else [judged.loss, judged.accuracy]
        if self.terms.adaptive:
            if judged is None:
                raise SpecError(
                    "the interval follows from losses on held-out data, and the spec keeps none",
                    where="swarm.use_adaptive_sync",
                    remedy="Set data.validation above 0.",
                )
            self._steps = adopted.next_interval
        told, self._told = self._told, max(self._told, adopted.round)
        self._save()
        if self._loss is not None and adopted.round > told:
            weights = {peer: shared.weight for peer, shared in adopted.shared.items()}
            self._peer.metrics.round_done(adopted.round - 1, self._loss, Mixed(weights, None, None, ()))

    def blocked(self, reason: str | None) -> None:
        _log.info("%s: %s", self.terms.contract, reason or "merges go on")

    def _save(self) -> None:
        memory: dict[str, Any] = {
            "done": self._done,
            "vector": self._vector,
            "steps": self._steps,
            "figures": self._figures,
            "loss": self._loss,
            "told": self._told,
        }
        self._peer.store.put(_KEY, memory)
