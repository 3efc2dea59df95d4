"""What a runtime gives a peer: its learner, its store, its clock, where it reports, and what its process remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from coterie.errors import CoterieError, VectorBusy
from coterie.identity import PeerId
from coterie.layout import Snapshot
from coterie.protocols.patience import Patience
from coterie.protocols.published import Model


@dataclass(frozen=True)
class Fitted:
    """The outcome of a fit: a snapshot of the vector, and the mean loss over the local steps."""

    snapshot: Snapshot
    loss: float


@dataclass(frozen=True)
class Mixed:
    """The outcome of an aggregation: what each vector weighed, what is trusted, and the rule's state for next time."""

    weights: Mapping[PeerId, float]
    trust: Mapping[PeerId, float] | None
    state: Any
    refused: tuple[PeerId, ...]


class PeerLearner(Protocol):
    """A peer's own model and data. One call at a time: a second one during the first raises VectorBusy."""

    @property
    def samples(self) -> int:
        """Number of training samples."""
        ...

    async def fit(self, round: int, steps: int | None = None) -> Fitted:
        """Train on the peer's own data, as the spec's ``[training]`` says for this round.

        ``steps``: so many minibatches, in place of the spec's local steps or epochs.
        """
        ...

    async def aggregate(
        self,
        received: Mapping[PeerId, Model],
        round: int,
        *,
        degree: int,
        state: Any = None,
        rule: str | None = None,
    ) -> Mixed:
        """Mix the vector with those received, by the spec's rule or the named one, and go on from the outcome."""
        ...

    async def adopt(self, snapshot: Snapshot) -> None:
        """Go on from this vector instead."""
        ...

    async def snapshot(self) -> Snapshot:
        """A copy of the vector as it is now."""
        ...


class Store(Protocol):
    """What survives a crash of the peer. Values: numbers, strings, snapshots, and lists and dicts of such."""

    def get(self, key: str) -> Any:
        """The value last put under ``key``; None if there is none."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep ``value``; it replaces the earlier one at once or not at all."""
        ...

    def put_durably(self, key: str, value: Any) -> None:
        """Keep ``value`` as ``put`` does, and return once it is on disk. Raises OutputError where it cannot be."""
        ...


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since some start; virtual in a simulation."""
        ...


class Metrics(Protocol):
    """Where a protocol reports what happened. Reporting never changes the run."""

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        """The round is over at this peer: ``loss`` of its fit, and how it mixed (None: it did not)."""
        ...

    def dropped(self, sender: PeerId, error: CoterieError) -> None:
        """Bytes from ``sender`` were refused."""
        ...


@dataclass
class PeerMemory:
    """What a peer's process knows beside its store and its model."""

    published: dict[str, Model] = field(default_factory=dict)
    """By channel. Lost in a crash."""
    patience: dict[PeerId, Patience] = field(default_factory=dict)
    """How long others took to answer: a few numbers, which survive a crash."""
    patience_with_all: Patience = field(default_factory=Patience)


def require_idle(busy: bool, where: str) -> None:
    """Raise VectorBusy if a peer's learner is already at work."""
    if busy:
        raise VectorBusy(
            "the vector was touched while the learner is at work",
            where=where,
            remedy="Await one call of the learner before the next.",
        )
