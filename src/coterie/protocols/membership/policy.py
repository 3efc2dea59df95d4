"""Who may bring in members and who may send them away, how many there may be, and until when.

A federation's policy is part of its genesis and never changes: another policy is another federation.

``admit``   "founder": the founder alone. "quorum": ``quorum`` of the voters sign each admission. "any": a member alone.
``expel``   "founder", or "quorum" of the voters.
``quorum``  k, absolute. An expulsion always needs k signatures; an admission k, or those of all voters while there are
            fewer than k. The author's own signature is one of them.
``seats``   most members at a time, the founder included (a floating licence, as admission).
``until``   no admission after this time, in ms since 1970; None: no end. Members stay.
``stake``   of a member that genesis gives none by name.
``recovery``  keys that may replace or expel anybody, the founder too, when more than half of them sign. They need not
            be members, are kept offline, and are the only remedy for a founder's key that is lost or stolen.

**Voters** are the founder and those whom the founder or a quorum admitted. Whom a mere member has brought in (``admit =
"any"``) has no vote: one member could otherwise bring in as many voters as it needs.

When the founder leaves, or recovery keys expel it without a successor, what only the founder might do needs a quorum of
the voters from then on; where any member may admit, that goes on. When its key is lost, recovery keys name a successor;
without recovery keys the members stay as they are, nobody does what is the founder's alone, and the way on is a new
federation. It cannot be otherwise: whoever has the founder's key could replay the founding with friends of its own, and
no record tells the two histories apart.

Threat model. Assumed: fewer than k voters are ever malicious, those expelled since included. A malicious founder, or
the thief of its key, may admit and expel as it likes until recovery keys replace it. With ``admit = "quorum"`` it can
still act as though it were alone, by records that follow genesis only. A malicious member where ``admit = "any"`` may
fill free seats, and is undone by its expulsion; it cannot give anybody a vote, nor another stake than ``stake``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from coterie.errors import MembershipError
from coterie.identity import is_peer_id

MOST_SEATS = 10_000
MOST_RECOVERY = 16
MOST_STAKE = 1 << 40

Stake = Annotated[int, msgspec.Meta(ge=0, le=MOST_STAKE)]
Id = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
Millis = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may admit and expel. See the module."""

    admit: Literal["founder", "quorum", "any"] = "founder"
    expel: Literal["founder", "quorum"] = "founder"
    quorum: Annotated[int, msgspec.Meta(ge=2, le=MOST_SEATS)] = 2
    seats: Annotated[int, msgspec.Meta(ge=1, le=MOST_SEATS)] = 1000
    until: Millis | None = None
    stake: Stake = 1
    recovery: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MOST_RECOVERY)] = ()

    def check(self) -> None:
        """Raise MembershipError where recovery keys are no keys, or are named twice or out of order."""
        if list(self.recovery) != sorted(set(self.recovery)) or not all(map(is_peer_id, self.recovery)):
            raise MembershipError(
                "the recovery keys are not different peer ids in order", remedy="Sort them, and name each once."
            )

    @property
    def recoverers(self) -> int:
        """How many recovery keys must sign: more than half."""
        return len(self.recovery) // 2 + 1
