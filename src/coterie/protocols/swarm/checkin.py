"""What a peer brings to a merge, and how much it weighs there.

Node weights and samples are the peers' own words: one that overstates its samples gains weight in a mean. Do not weigh
by samples where peers are not trusted; a node weight is at most 100 whatever a peer says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from coterie.errors import MessageError
from coterie.protocols.swarm.staleness import age, fresh_share

LEAST_WEIGHT, MOST_WEIGHT = 1, 100
MOST_SAMPLES = (1 << 32) - 1


class Mode(StrEnum):
    """What stands for a peer that has done all its epochs while the others go on (``checkinModelOnTrainEnd``)."""

    SNAPSHOT = "snapshot"
    """Its own last local model."""
    ACTIVE = "active"
    """The last merged model: it holds the others back where they are."""
    INACTIVE = "inactive"
    """Nothing: its weight is 0."""


@dataclass(frozen=True)
class CheckIn:
    """What a peer says when it checks in. Raises MessageError for a weight or samples that nobody can have."""

    base: int
    """The merge that its model was trained from; 0 is the model that the training began with."""
    weight: int = 1
    """Its node weight, 1 to 100. It may be another one each time."""
    samples: int = 1
    """Its training samples; 1 in a training that does not weigh by samples."""
    finished: bool = False
    mode: Mode = Mode.SNAPSHOT

    def __post_init__(self) -> None:
        if not (LEAST_WEIGHT <= self.weight <= MOST_WEIGHT and 0 <= self.samples <= MOST_SAMPLES):
            raise MessageError(
                f"a check-in with node weight {self.weight} and {self.samples} samples", remedy="It is not merged."
            )


@dataclass(frozen=True)
class Contribution:
    """What goes into a merge for one peer."""

    merged: bool
    """Whether that is the last merged model, instead of the peer's own."""
    weight: float


def contribution(checkin: CheckIn, merges: int, where: str = "") -> Contribution:
    """The peer's part in the merge after ``merges`` others.

        in training           own model      node weight x samples / (1 + age)
        finished, snapshot    own model      node weight x samples
        finished, active      last merged    node weight x samples
        finished, inactive    -              0

    age is ``staleness.age``. A finished peer does not age: it is done, not late. Raises MessageError for a base that is
    does not exist.
    """
    missed = age(checkin.base, merges, where)
    weight = float(checkin.weight * checkin.samples)
    if not checkin.finished:
        return Contribution(merged=False, weight=weight * fresh_share(missed))
    if checkin.mode is Mode.INACTIVE:
        return Contribution(merged=False, weight=0.0)
    return Contribution(merged=checkin.mode is Mode.ACTIVE, weight=weight)
