"""How many batches peers train before they check in again: more while the loss falls, fewer when it does not.

The losses are the peers' own words. One that lies can make the interval shorter or longer, between the bounds, for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from coterie.errors import SpecError
from coterie.protocols.peer import PeerId


@dataclass(frozen=True)
class Bounds:
    """Of the interval, in batches."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise SpecError(
                f"an interval cannot lie between {self.least} and {self.most} batches",
                where="syncFrequency",
                remedy="Give 1 <= least <= most.",
            )

    @classmethod
    def about(cls, frequency: int) -> Bounds:
        """A quarter and four times the interval a training begins with."""
        return cls(max(1, frequency // 4), 4 * frequency)


@dataclass(frozen=True)
class Interval:
    """What the shared state keeps: the interval now, and the losses it was found from."""

    batches: int
    losses: Mapping[PeerId, float] = field(default_factory=dict)
    """Each peer's loss of the last merged model on its own validation data, as it last reported it."""


def adapted(interval: Interval, losses: Mapping[PeerId, float], bounds: Bounds) -> Interval:
    """The interval after a merge of which the peers report ``losses``.

        falls:  batches <- min(batches + max(1, floor(batches / 4)), most)
        else:   batches <- max(floor(batches / 2), least)

    The loss falls where its mean over the peers that reported now and before is less than it was for the same peers, so
    that a peer that comes or goes looks like neither. A loss that is not finite counts as one that did not fall. With
    no peer to compare, the interval stays. The mean is summed exactly: its bits do not depend on the peers' order.

    HPE documents the direction only; the steps are Coterie's: slowly up, quickly down, as a merge too many costs time
    and one too few costs accuracy.
    """
    both = sorted(peer for peer in losses if peer in interval.losses)
    known = dict(sorted({**interval.losses, **losses}.items()))
    batches = interval.batches
    if both:
        now, before = (_total([found[peer] for peer in both]) for found in (losses, interval.losses))
        if now < before:
            batches += max(1, batches // 4)
        else:
            batches //= 2
    return Interval(max(bounds.least, min(batches, bounds.most)), known)


def _total(losses: list[float]) -> float:
    """Their exact sum, rounded once; infinite where one is not finite, or the sum is too large."""
    try:
        total = math.fsum(losses)
    except (OverflowError, ValueError):
        return math.inf
    return total if math.isfinite(total) else math.inf
