"""Addresses of which nobody knows whose they are: which to dial, and when again.

They come from the distributed hash table, where anybody may announce any number of them; and from the operator, who
knows a contact's address but not its key. Bounded: how many are kept, and how many are offered in a minute. The
operator's are always kept and always offered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from coterie.network.addresses import Address


@dataclass(frozen=True)
class StrangerLimits:
    addresses: int = 256
    """Kept at once, beside the operator's."""
    offers_a_minute: int = 64
    retry_seconds: float = 30.0
    """Until an address is offered a second time; then twice as long each time."""
    most_retry_seconds: float = 3600.0
    offers: int = 8
    """So many offers in vain end an address that the operator did not name. The table may name it again."""


@dataclass
class _Stranger:
    configured: bool
    due: float = -math.inf
    """When it may be offered next."""
    offers: int = 0


@dataclass
class Strangers:
    """``now`` is seconds of a monotonic clock."""

    limits: StrangerLimits = field(default_factory=StrangerLimits)
    _kept: dict[Address, _Stranger] = field(default_factory=dict)
    _budget: float = math.inf
    """Offers that may be made now."""
    _budget_at: float = -math.inf

    def __contains__(self, address: Address) -> bool:
        return address in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def configure(self, addresses: Iterable[Address]) -> None:
        for address in addresses:
            self._kept[address] = _Stranger(configured=True)

    def add(self, address: Address) -> bool:
        """Keep one more. False where it is known, or all that are kept were never tried yet and fill the place."""
        if address in self._kept:
            return False
        others = [(s.offers, a) for a, s in self._kept.items() if not s.configured]
        if len(others) >= self.limits.addresses:
            offers, tried = max(others)
            if not offers:
                return False
            del self._kept[tried]
        self._kept[address] = _Stranger(configured=False)
        return True

    def known(self, address: Address) -> None:
        """It is known now who is there."""
        stranger = self._kept.get(address)
        if stranger is not None and not stranger.configured:
            del self._kept[address]

    def due(self, now: float) -> list[Address]:
        """Those to dial now; each call counts as an offer of them."""
        rate = self.limits.offers_a_minute
        self._budget = min(rate, self._budget + max(0.0, now - self._budget_at) * rate / 60)
        self._budget_at = now
        offered = []
        for address, stranger in list(self._kept.items()):
            if stranger.due > now:
                continue
            if not stranger.configured:
                if stranger.offers >= self.limits.offers:
                    del self._kept[address]
                    continue
                if self._budget < 1:
                    continue
                self._budget -= 1
            delay = self.limits.retry_seconds * 2 ** min(stranger.offers, 32)
            stranger.due = now + min(delay, self.limits.most_retry_seconds)
            stranger.offers += 1
            offered.append(address)
        return offered
