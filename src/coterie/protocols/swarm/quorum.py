"""When the models that were checked in are merged, when more are waited for, and when nothing can go on.

Two numbers are kept apart. ``min_peers`` is how many models a merge needs: it says what is worth merging. ``votes`` is
how many members must agree on what the shared state holds: it keeps the two sides of a split from merging both, which
``min_peers`` alone would not. A side without the votes trains on alone and says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from coterie.errors import SpecError
from coterie.protocols.peer import PeerId

_NAMED = 5


@dataclass(frozen=True)
class Quorum:
    """The settings of a training."""

    min_peers: int
    votes: int
    """Members that must be reachable, the one who asks counted, for the shared state to go on."""
    full_wait: float = 30.0
    """Seconds that the rest is waited for, once ``min_peers`` have checked in."""
    deadline: float = 300.0
    """Seconds after which too few check-ins are reported, though enough peers can be reached."""

    def __post_init__(self) -> None:
        if self.min_peers < 1 or self.votes < 1 or not self.full_wait >= 0 or not self.deadline > 0:
            raise SpecError(
                f"min_peers {self.min_peers}, votes {self.votes}, waits of {self.full_wait} and {self.deadline} s",
                where="minPeers",
                remedy="Give at least 1 peer and 1 vote, and waits that are not negative.",
            )


@dataclass(frozen=True)
class Gathering:
    """How far the next merge is, as one peer sees it."""

    members: tuple[PeerId, ...]
    """Those that take part in this training."""
    reachable: tuple[PeerId, ...]
    """Of these, the ones that answer; the peer itself is one."""
    ready: tuple[PeerId, ...]
    """Of the members, those whose contribution is checked in and can be had. Finished ones always are."""
    seconds: float
    """Since the first check-in after the last merge."""
    since_enough: float | None
    """Seconds since ``min_peers`` were ready; None while they are not."""


@dataclass(frozen=True)
class Merge:
    """Merge what is ready."""


@dataclass(frozen=True)
class Wait:
    """Ask again when something changes, or after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Blocked:
    """Nothing can be merged until peers come back. Training may go on alone."""

    reason: str
    """A sentence for the user."""


Decision = Merge | Wait | Blocked


def decide(quorum: Quorum, gathering: Gathering) -> Decision:
    """What to do now: the first of these that applies.

    1. Fewer than ``votes`` can be reached: Blocked.
    2. Fewer than ``min_peers`` are ready: Blocked at once where neither they nor those that can still be reached would
       be enough, or after ``deadline``; else Wait.
    3. All that can be reached are ready: Merge. One that cannot be reached is not waited for; it is merged when it is
       back, by its age.
    4. Merge when ``full_wait`` seconds have passed since ``min_peers`` were ready; until then Wait.
    """
    members, reachable, ready = len(gathering.members), len(gathering.reachable), len(gathering.ready)
    if reachable < quorum.votes:
        return Blocked(
            f"{reachable} of {members} members can be reached, and {quorum.votes} must agree on a merge. "
            f"Not reached: {_names(gathering.members, gathering.reachable)}. Merges go on when they are back."
        )
    awaited = sorted(peer for peer in gathering.reachable if peer not in gathering.ready)
    if ready < quorum.min_peers:
        if ready + len(awaited) < quorum.min_peers:
            return Blocked(
                f"a merge needs {quorum.min_peers} peers, and {ready + len(awaited)} of {members} are ready or can be "
                f"reached. Not reached: {_names(gathering.members, gathering.reachable)}. "
                "Merges go on when they are back."
            )
        if gathering.seconds >= quorum.deadline:
            return Blocked(
                f"a merge needs {quorum.min_peers} peers, and {ready} have checked in within "
                f"{quorum.deadline:g} s. Still training: {_names(awaited, ())}."
            )
        return Wait(quorum.deadline - gathering.seconds)
    left = quorum.full_wait - (gathering.since_enough or 0.0)
    return Wait(left) if awaited and left > 0 else Merge()


def _names(peers: tuple[PeerId, ...] | list[PeerId], known: tuple[PeerId, ...]) -> str:
    """Those of ``peers`` that are not ``known``, shortened to a few."""
    missing = sorted(peer[:12] for peer in peers if peer not in known)
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return (", ".join(missing[:_NAMED]) or "nobody") + more
