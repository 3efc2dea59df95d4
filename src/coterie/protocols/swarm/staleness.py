"""What a model that comes late still counts: it was trained from an older merge than the last one."""

from __future__ import annotations

from coterie.errors import MessageError


def age(base: int, merges: int, where: str = "") -> int:
    """How many merges a model has missed: ``merges`` so far, less ``base``, the one it was trained from.

    Merges are counted from 1; 0 is the model that the training began with. Raises MessageError for a base that does not
    exist yet, or never did.
    """
    if not 0 <= base <= merges:
        raise MessageError(
            f"a model that was trained from merge {base} of {merges}", where=where, remedy="It is not merged."
        )
    return merges - base


def fresh_share(age: int) -> float:
    """The share of its weight that a model of this age keeps: 1 / (1 + age).

    A peer in time weighs in full, one that takes part in every second merge by half, and none is lost.
    Source: Xie, Koyejo and Gupta, "Asynchronous federated optimization", 2019 (the polynomial one, a = 1). The
    peer tells its base itself: one that lies about it weighs as much as if it were in time, never more.
    """
    return 1.0 / (1.0 + age)
