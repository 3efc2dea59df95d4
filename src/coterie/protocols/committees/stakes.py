"""Stakes: whole numbers, and the bound on what one peer's may count for."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from coterie.errors import SpecError
from coterie.identity import PeerId

Stakes = Mapping[PeerId, int]
"""The stake of each peer: whole numbers from 0. A peer without stake gets no seat."""


def checked(stakes: Iterable[int], where: str) -> list[int]:
    """The stakes as a list. Raises SpecError where one is no whole number from 0, or all are 0."""
    try:
        found = [operator.index(stake) for stake in stakes]
    except TypeError:
        found = [-1]
    if min(found, default=-1) < 0:
        raise SpecError(
            "stakes are whole numbers from 0, of at least one peer", where=where, remedy="Check the stakes."
        )
    if not any(found):
        raise SpecError("nobody has any stake", where=where, remedy="Give some peers a stake.")
    return found


def capped(stakes: Iterable[int], seats: int, most: int) -> list[int]:
    """The stakes, the greatest lowered to one bound, so that no peer can get more than ``most`` of ``seats`` seats.

    A stake s of W in all gets at most ceil(seats s / W) seats. So the bound is the greatest whole number B with
    seats B <= most sum(min(s, B)). Lowering some raises the others' share: whoever computes risks must do it with the
    lowered stakes. Raises SpecError where too few peers have any stake to fill the seats.
    """
    found = checked(stakes, "stakes")
    falling = sorted((stake for stake in found if stake), reverse=True)
    if seats < 1 or most * len(falling) < seats:
        raise SpecError(
            f"{len(falling)} peers with stake cannot fill {seats} seats with {most} at most for each",
            where="stakes",
            remedy="Draw fewer seats, from 1, or let more peers in.",
        )
    rest = sum(falling)
    if seats * falling[0] <= most * rest:
        return found
    bound = falling[0]
    for lowered, (stake, following) in enumerate(zip(falling, [*falling[1:], 0], strict=True), start=1):
        rest -= stake
        # with the first ``lowered`` at B:  seats B <= most (lowered B + rest)
        bound = most * rest // (seats - most * lowered)
        if bound >= following:
            break
    return [min(stake, bound) for stake in found]
