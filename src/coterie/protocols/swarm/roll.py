"""Who is there, and how far each is, as one peer hears it from the others' beats."""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.identity import PeerId as Key
from coterie.protocols.swarm.messages import SwarmBeat
from coterie.protocols.swarm.records import CheckInRecord


@dataclass
class Heard:
    """What one peer has said last."""

    at: float
    beat: SwarmBeat
    check_in: CheckInRecord | None = None
    """For the epoch of ``beat``."""


@dataclass
class Roll:
    """``silence``: seconds after which one that says nothing counts as gone; so long all are given to come."""

    silence: float
    began: float
    heard: dict[Key, Heard] = field(default_factory=dict)
    _stuck: dict[Key, tuple[int, float]] = field(default_factory=dict)

    def is_there(self, key: Key, now: float) -> bool:
        """Whether it was heard not long ago, and has not left."""
        heard = self.heard.get(key)
        if heard is None:
            return now < self.began + self.silence
        return not heard.beat.leaving and now < heard.at + self.silence

    def has_left(self, key: Key) -> bool:
        """Whether it has said its last word."""
        heard = self.heard.get(key)
        return heard is not None and heard.beat.leaving

    def lacks(self, key: Key, epoch: int, digest: bytes | None) -> bool:
        """Whether it may still need something for the final model of this hash, of the last merge before ``epoch``."""
        heard = self.heard.get(key)
        if heard is None:
            return True
        return not heard.beat.leaving and (heard.beat.epoch < epoch or digest not in heard.beat.holds)

    def check_ins(self, epoch: int) -> dict[Key, CheckInRecord]:
        """Those for this epoch, by their authors, sorted."""
        found = {key: self.heard[key].check_in for key in sorted(self.heard) if self.heard[key].beat.epoch == epoch}
        return {key: check_in for key, check_in in found.items() if check_in is not None}

    def holders(self, digest: bytes, epoch: int) -> list[Key]:
        """Who has said to have this proposed model."""
        here = sorted(self.heard)
        return [k for k in here if self.heard[k].beat.epoch == epoch and digest in self.heard[k].beat.holds]

    def is_idle(self, key: Key, epoch: int) -> bool:
        """Whether it waits for this epoch's merge."""
        heard = self.heard.get(key)
        return heard is not None and heard.beat.idle and heard.beat.epoch == epoch

    def is_stuck(self, key: Key, now: float, patience: float) -> bool:
        """Whether it has not got on with leading for so many seconds; to be asked of whoever is to lead, often."""
        heard = self.heard.get(key)
        progress = heard.beat.progress if heard is not None else 0
        seen, since = self._stuck.get(key, (-1, now))
        if seen != progress:
            self._stuck[key] = (progress, now)
            return False
        return now - since > patience

    def begin_epoch(self) -> None:
        """Patience with leaders begins anew."""
        self._stuck = {}
