"""What the protocol asks of a site: to train, to merge, to go on from what was merged. And of a peer: its chains.

A site is a simulated peer's learner, a real node's, or a user's script behind a callback; the protocol is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coterie.layout import Layout, Snapshot
from coterie.protocols.peer import PeerId
from coterie.protocols.swarm.checkin import Mode


@dataclass(frozen=True)
class Terms:
    """What a site asks for. All sites of one training must ask for the same, ``total_epochs`` apart."""

    contract: str
    """Name of the training: sites with the same one train together."""
    min_peers: int
    """How many check-ins a merge needs, at least 1, the own one included."""
    sync_frequency: int
    """Batches between two merges at first, at least 1; always, unless ``adaptive``."""
    adaptive: bool = False
    """Whether the interval follows from the losses (``coterie.protocols.swarm.interval``)."""
    merge: str | Callable[..., Any] = "mean"
    """mean, coordmedian, geomedian, a rule's name, ``file.py:function``, or the rule itself."""
    total_epochs: int = 0
    """How many epochs this site means to train; 0: it does not say."""
    opening: bool = False
    """Whether sites come with different models, so that the first leader's becomes that of all before they train."""


@dataclass(frozen=True)
class CheckedIn:
    """What a site brings to a merge."""

    snapshot: Snapshot
    digest: bytes
    """SHA-256 of the snapshot's elements, 32 bytes."""
    weight: int = 1
    """The node weight, 1 to 100, as it is now."""
    samples: int = 1
    """Training samples; 1 in a training that does not weigh by samples. The same kind at all sites."""
    steps: int = 0
    """Batches trained since the site last went on from a merged model."""
    epochs: int = 0
    """Epochs finished since the beginning."""
    loss: float | None = None
    """Of the model it last adopted, on its own held-out data. None: not known, or not finite."""
    metric: float | None = None
    ending: bool = False
    """The site has done all its training: it is not asked again, and ``mode`` says what stands for it from now on."""
    mode: Mode = Mode.SNAPSHOT


@dataclass(frozen=True)
class Part:
    """One model in a merge."""

    peer: PeerId
    snapshot: Snapshot
    weight: float
    """0 or more, of any scale."""
    samples: int


@dataclass(frozen=True)
class Shared:
    """What one site has told all others with its check-in."""

    weight: float
    """What its model weighed in the merge, all together 1."""
    loss: float | None
    metric: float | None
    epochs: int
    finished: bool


@dataclass(frozen=True)
class Adopted:
    """What all sites go on from."""

    snapshot: Snapshot
    round: int
    """Number of the merge, from 1; an opening is one."""
    next_interval: int
    """Batches until the next check-in, at least 1."""
    over: bool
    """The training is over, and this its model: the same at all sites."""
    leader: PeerId
    shared: Mapping[PeerId, Shared] = field(default_factory=dict)
    """By peer: those whose models are in it."""

    @property
    def peers(self) -> int:
        return len(self.shared)


class SwarmSite(Protocol):
    """One site's model and data, as protocol swarm uses them.

    One call at a time, but for ``digest`` and ``blocked``, which may come at any time. Cancelling a call is a crash: it
    must leave a state in which the protocol can begin again.
    """

    @property
    def terms(self) -> Terms: ...

    @property
    def layout(self) -> Layout:
        """Of the site's model; models of another one are refused."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether its model is what it was when it stopped. Where not, it begins with the last merged one."""
        ...

    async def check_in(self, round: int) -> CheckedIn:
        """Train to the next check-in. ``round``: the merges so far, as this peer knows.

        It is asked again without an ``adopt`` in between where nothing can be merged: train on alone.
        """
        ...

    async def merge(self, parts: Sequence[Part], last: Snapshot | None, round: int) -> Snapshot:
        """The models merged by the terms' method; ``last`` is the last merged one, None where there is none.

        The same at whatever site: it must follow from the arguments alone. At least one weight is above 0. Raises
        TrainingDiverged where no model is finite.
        """
        ...

    async def digest(self, snapshot: Snapshot) -> bytes:
        """SHA-256 of the elements, little-endian float32: of what came from another peer, made from its bytes."""
        ...

    async def adopt(self, adopted: Adopted) -> None:
        """Go on from the merged model. Before the first ``check_in`` where the training has begun without this site."""
        ...

    def blocked(self, reason: str | None) -> None:
        """Nothing can be merged now, and why, in a sentence for the user; None: it can again. Returns at once."""
        ...
