"""What a real peer writes down about itself: a line of ``metrics.jsonl`` a round, and who sent what was refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from coterie.errors import CoterieError, MessageError
from coterie.identity import PeerId
from coterie.protocols import Mixed
from coterie.protocols.interfaces import Metrics
from coterie.runtime.results import PeerMetrics
from coterie.runtime.work.learner import JobLearner
from coterie.spec import Spec
from coterie.training import Evaluation

_log = logging.getLogger("coterie.round")


@dataclass
class NodeMetrics:
    """Implements ``Metrics``."""

    spec: Spec
    peer: PeerId
    number: int
    attacker: bool
    learner: JobLearner
    seconds: Callable[[], float]
    """Since the node began to train."""
    bytes_sent: Callable[[], int]
    on_record: Callable[[PeerMetrics], None]
    before: Metrics
    """What counted refusals until the protocol began, and still does."""
    round: int = -1
    """The last one that is over; -1 before the first."""
    loss: float | None = None
    """Of the last local steps."""
    last: PeerMetrics | None = None
    """The last evaluation."""
    mixed: Mixed | None = None

    def round_done(self, round: int, loss: float, mixed: Mixed | None) -> None:
        self.round, self.loss = round, loss
        if mixed is not None:
            self.mixed = mixed
            for sender in mixed.refused:
                self.dropped(sender, _NotTaken("the rule did not take its vector"))
        last, moment, sent = self.mixed, self.seconds(), self.bytes_sent()
        rounds = self.spec.federation.rounds
        _log.info(
            "round %d of %d: loss %.4f, %d models", round + 1, rounds, loss, len(mixed.weights) - 1 if mixed else 0
        )
        if not self.spec.evaluates(round):
            return

        def done(evaluation: Evaluation) -> None:
            self.last = PeerMetrics.of(
                evaluation,
                last,
                round=round,
                peer=self.peer,
                index=self.number,
                attacker=self.attacker,
                time=moment,
                train_loss=loss,
                bytes_sent=sent,
            )
            self.on_record(self.last)

        self.learner.evaluate(self.spec.evaluation.samples, done)

    def dropped(self, sender: PeerId, error: CoterieError) -> None:
        self.before.dropped(sender, error)


class _NotTaken(MessageError):
    code = "rule"
