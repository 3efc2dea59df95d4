"""How many seats secure aggregation needs, for the stakes at hand and an assumed share of corrupt stake.

    m  seats: each has a share of every update
    k  pack: numbers in one polynomial. An upload is m / k times the update, so more are cheaper
    t  privacy: so many seats together learn nothing; P(more corrupt seats) <= 1e-6 a round
    K  recover: t + k shares give what was shared
    e  liars: so many false shares are found and named; P(more corrupt seats) <= 1e-3 a round
    x  offline: so many honest seats may be missing besides

with m = t + k + 2 e + x, as Reed-Solomon decoding wants it. t is at least 1, and no peer holds more than t seats. A
round with more than e liars ends empty; one with more than t colluding seats gives an update away, hence the two risks.

The risks are a round: over R rounds, R times as much. They are exact for equal stakes and bounds otherwise (``tails``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from coterie.errors import SpecError
from coterie.protocols.committees.stakes import capped, checked
from coterie.protocols.committees.tails import Tail, corrupt_seats

PRIVACY_RISK = Fraction(1, 10**6)
"""P(corrupt seats > t) a round, at most."""
LIAR_RISK = Fraction(1, 10**3)
"""P(corrupt seats > e) a round, at most."""
MOST_PACK = 4
"""The largest pack: what is opened of a sketch grows with it."""
MOST_SEATS = 1024
_WHERE = "committee"


@dataclass(frozen=True)
class SeatPlan:
    """The parameters of a round, and the risks that they leave (this round's, or bounds on them)."""

    seats: int
    pack: int
    privacy: int
    liars: int
    offline: int
    privacy_risk: Fraction
    liar_risk: Fraction
    exact: bool
    """Whether the risks are exact; otherwise they are upper bounds."""

    @property
    def recover(self) -> int:
        """K: so many true shares give what was shared."""
        return self.privacy + self.pack


@dataclass(frozen=True)
class _Levels:
    """t and e for m seats, and what they rest on."""

    privacy: int
    liars: int
    tail: Tail


def plan_seats(
    stakes: Iterable[int], corrupt: Fraction, *, seats: int | None = None, offline: Fraction = Fraction(1, 20)
) -> SeatPlan:
    """The parameters for these stakes, where peers with up to a share ``corrupt`` of the stake are corrupt.

    With ``seats`` for so many, and the largest pack that they allow, up to 4. Otherwise the smallest number of seats,
    up to the number of peers with stake, of which a share ``offline`` may be missing: with a pack of 4, or the largest
    that goes. Where none does, as many seats as peers, and what remains may be missing. Where even these are too few,
    up to 4 seats a peer: the more, the less luck there is in how many corrupt peers get.

    Raises SpecError where no committee will do, or a share is not in its range: corrupt 0 to 1/3, offline 0 to 1/2.
    """
    found = [stake for stake in checked(stakes, _WHERE) if stake]
    _check(corrupt, seats, offline)
    fixed = min(len(found), MOST_SEATS) if seats is None else seats
    levels = _levels(found, fixed, corrupt)
    filled = _filled(found, fixed, levels)
    if seats is None:
        filled = (
            _smallest(found, fixed, corrupt, offline)
            or filled
            or _smallest(found, min(4 * fixed, MOST_SEATS), corrupt, offline)
        )
    if filled is None:
        raise SpecError(
            f"no committee stands {float(corrupt):.3g} of the stake of {len(found)} peers being corrupt: of {fixed} "
            f"seats t = {levels.privacy} and e = {levels.liars}, and t + 2 e must be less than the seats",
            where=_WHERE,
            remedy="Assume less corrupt stake, let more peers in, or make their stakes more equal.",
        )
    return filled


def _smallest(stakes: list[int], most: int, corrupt: Fraction, offline: Fraction) -> SeatPlan | None:
    known: dict[int, _Levels] = {}
    for pack in range(MOST_PACK, 0, -1):
        seats = pack + 1
        while seats <= most:
            if seats not in known:
                known[seats] = _levels(stakes, seats, corrupt)
            levels = known[seats]
            short = levels.privacy + pack + 2 * levels.liars + ceil(offline * seats) - seats
            if short <= 0:
                return _plan(stakes, seats, pack, levels)
            seats += short  # a seat more makes neither t nor e smaller, so it gains one at most
    return None


def _filled(stakes: list[int], seats: int, levels: _Levels) -> SeatPlan | None:
    pack = min(MOST_PACK, seats - levels.privacy - 2 * levels.liars)
    return _plan(stakes, seats, pack, levels) if pack > 0 else None


def _plan(stakes: list[int], seats: int, pack: int, levels: _Levels) -> SeatPlan:
    return SeatPlan(
        seats=seats,
        pack=pack,
        privacy=levels.privacy,
        liars=levels.liars,
        offline=seats - levels.privacy - pack - 2 * levels.liars,
        privacy_risk=levels.tail.above(levels.privacy),
        liar_risk=levels.tail.above(levels.liars),
        exact=min(stakes) == max(stakes),
    )


def _levels(stakes: list[int], seats: int, corrupt: Fraction) -> _Levels:
    """The smallest t, and e with it. No peer has more than t seats, and the smaller t, the more the greatest stakes are
    lowered and corrupt peers' share grows: so t is the first that is enough for the stakes as it lowers them."""
    budget = corrupt * sum(stakes)
    privacy = max(1, -(-seats // len(stakes)), corrupt_seats(stakes, seats, budget).quantile(PRIVACY_RISK))
    while True:
        tail = corrupt_seats(capped(stakes, seats, privacy), seats, budget)
        if tail.quantile(PRIVACY_RISK) <= privacy:
            return _Levels(privacy, tail.quantile(LIAR_RISK), tail)
        privacy += 1


def _check(corrupt: Fraction, seats: int | None, offline: Fraction) -> None:
    if not 0 <= corrupt < Fraction(1, 3):
        raise SpecError(
            f"a corrupt share of {float(corrupt):.3g}",
            where=_WHERE,
            remedy="Give one from 0 to less than 1/3: from there on liars cannot be told from the honest.",
        )
    if not 0 <= offline <= Fraction(1, 2):
        raise SpecError(f"an offline share of {float(offline):.3g}", where=_WHERE, remedy="Give one from 0 to 1/2.")
    if seats is not None and not 2 <= seats <= MOST_SEATS:
        raise SpecError(f"{seats} seats", where=_WHERE, remedy=f"Give 2 to {MOST_SEATS}.")
