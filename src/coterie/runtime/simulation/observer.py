"""What is written down about a federation while it runs: metrics, progress, and who sent what was refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coterie.errors import CoterieError
from coterie.protocols import Mixed, PeerId
from coterie.runtime.results import PeerMetrics
from coterie.training import Evaluation

if TYPE_CHECKING:
    from coterie.runtime.simulation.federation import Federation, Member


@dataclass
class Report:
    """One peer's metrics: evaluates its vector at the end of the rounds that are watched."""

    member: Member
    observer: Observer

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        member, federation = self.member, self.observer.federation
        if mixed is not None:
            member.mixed = mixed
            for sender in mixed.refused:
                self.observer.count_dropped(sender)
        if not federation.spec.evaluates(round):
            return
        moment, sent, last = federation.loop.time(), federation.network.bytes_sent[member.id], member.mixed

        def done(evaluation: Evaluation) -> None:
            self.observer.record(
                PeerMetrics.of(
                    evaluation,
                    last,
                    round=round,
                    peer=member.id,
                    index=member.index,
                    attacker=member.attacker,
                    time=moment,
                    train_loss=loss,
                    bytes_sent=sent,
                )
            )

        member.learner.evaluate(federation.spec.evaluation.samples, done)

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
