"""What can happen to the state machine, and what it wants done. Plain values: no clock, no network, no disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from coterie.errors import CoterieError
from coterie.ledger.shared import Certificate, Evidence, Finality, FullSharedBlock, Proposal, Vote
from coterie.protocols.consensus.application import View

TimerKind: TypeAlias = Literal["height", "resend", "relay", "nudge"]

# Events


@dataclass(frozen=True)
class Voted:
    """A vote has come from its voter."""

    vote: Vote


@dataclass(frozen=True)
class Proposed:
    """A proposal has come from its proposer."""

    proposal: Proposal


@dataclass(frozen=True)
class Certified:
    """A certificate has come from anybody."""

    certificate: Certificate


@dataclass(frozen=True)
class Fetched:
    """A block that was lacking has come from anybody."""

    full: FullSharedBlock


@dataclass(frozen=True)
class Due:
    """The application says that a block should be made at this height."""

    height: int


@dataclass(frozen=True)
class Drafted:
    """The block that this peer proposes."""

    full: FullSharedBlock


@dataclass(frozen=True)
class Judged:
    """The application accepts this block."""

    height: int
    block: bytes


@dataclass(frozen=True)
class Fired:
    """A timer has run out."""

    kind: TimerKind
    height: int
    stage: int = 0


@dataclass(frozen=True)
class Adopted:
    """Final blocks of this epoch have come from others, checked: the last one, and the certificate that names it."""

    height: int
    head: bytes
    certificate: Certificate


Event: TypeAlias = Voted | Proposed | Certified | Fetched | Due | Drafted | Judged | Fired | Adopted

# Actions


@dataclass(frozen=True)
class Log:
    """Put ``Simplex.memory()`` on disk before what follows."""


@dataclass(frozen=True)
class Tell:
    """Send to the voters at these places; None: to all others."""

    what: Vote | Proposal | Certificate
    to: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Hint:
    """Tell a voter that it is behind."""

    place: int


@dataclass(frozen=True)
class Timer:
    """Let ``fired`` happen so many seconds from now, in place of the last timer of its kind."""

    fired: Fired
    seconds: float


@dataclass(frozen=True)
class AskDue:
    """Ask the application when a block should be made."""

    view: View


@dataclass(frozen=True)
class Draft:
    """Make a block that follows ``parent``, of what the application has; an empty one where there is a ``closed``."""

    view: View
    parent_height: int
    parent: bytes
    closed: bytes
    """Id of the block before it that closes the epoch; empty where there is none."""
    needed: bool
    """An empty one is better than none: something before it is not final yet."""


@dataclass(frozen=True)
class Judge:
    """Ask the application about a block."""

    view: View
    full: FullSharedBlock


@dataclass(frozen=True)
class Final:
    """These blocks are final, in order."""

    blocks: tuple[FullSharedBlock, ...]
    finality: Finality


@dataclass(frozen=True)
class Accuse:
    """A voter has contradicted itself."""

    evidence: Evidence


@dataclass(frozen=True)
class Refuse:
    """A voter has sent what is no good."""

    place: int
    error: CoterieError


@dataclass(frozen=True)
class Pull:
    """Others know more: ask them, at once or, where not ``urgent``, if that is still so after a while."""

    urgent: bool


@dataclass(frozen=True)
class Stuck:
    """No quorum, for the so many-th interval."""

    times: int


@dataclass(frozen=True)
class Forgot:
    """There is a vote of this peer that it knows nothing of: its log is not what it was."""


Action: TypeAlias = Log | Tell | Hint | Timer | AskDue | Draft | Judge | Final | Accuse | Refuse | Pull | Stuck | Forgot
