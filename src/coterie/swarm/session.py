"""What a callback says to the swarm and hears from it: ``Session``, the seam between a script and a federation.

All calls come from the thread of the user's script, one at a time, and block it. Whoever writes a session decides how
long: below ``min_peers`` it waits with a deadline and a clear error, and it never waits for a peer that has died.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from coterie.layout import Layout
from coterie.protocols.swarm import Terms
from coterie.training.frameworks import Figures

__all__ = ["CheckIn", "Merged", "Session", "Terms"]


@dataclass(frozen=True)
class CheckIn:
    """One site's part in a merge."""

    vector: torch.Tensor
    """Shape (layout.size,), float32, CPU, finite. The session may keep it; nobody writes to it any more."""
    weight: int
    """How much it weighs, 1 to 100; 0: it is not to be counted."""
    steps: int
    """Batches trained since the last merge."""
    epochs: int
    """Epochs finished since the beginning."""
    figures: Figures
    """Of the model that the last call gave, on the site's own held-out data; finite, or None."""
    mode: Literal["snapshot", "active", "inactive"] = "snapshot"
    """What stands for a site at the end: see ``Settings.checkin_model_on_train_end``."""


@dataclass(frozen=True)
class Merged:
    """What all sites go on from."""

    vector: torch.Tensor
    """Shape (layout.size,), float32, CPU, contiguous, finite. The callback only reads it, until its next call."""
    round: int
    """Number of the merge: 0 at the beginning, or where a late joiner comes in."""
    peers: int
    """How many sites' models are in it."""
    next_interval: int
    """Batches until the next merge, at least 1."""
    over: bool
    """Whether the swarm's training is over. The callback then stops checking in, and calls ``end`` next."""


class Session(Protocol):
    """One site in one training. Errors are CoterieErrors, and reach the user's script as they are.

    ``begin``, then ``sync`` any number of times, ``end`` once, and ``close`` in any case. After an error, and after
    Ctrl-C, the same call may come again.
    """

    def begin(self, terms: Terms, layout: Layout, vector: torch.Tensor) -> Merged:
        """Take part: the vector to start from, the same everywhere; for a late joiner the last one that was merged.

        ``vector`` is what the site's model holds at first, lent until the call returns.
        """
        ...

    def sync(self, checkin: CheckIn) -> Merged:
        """Check in, wait for the merge, and return it."""
        ...

    def end(self, checkin: CheckIn) -> Merged:
        """Take part in the last merge: its vector is final, and the same everywhere."""
        ...

    def close(self, figures: Figures | None) -> None:
        """Leave. ``figures`` of the final model; None where the script leaves before the end. Returns within seconds.

        It may come at any time, twice too, and after an error.
        """
        ...
