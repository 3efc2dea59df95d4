"""How often others may ask: so many questions a second from each, and a number saved up (a token bucket).

What it keeps grows with the peers that ask, so ask for members alone.
"""

from __future__ import annotations

from coterie.identity import PeerId


class Allowance:
    """``a_second``: questions that each peer earns; ``burst``: the most it can save, which it has at first."""

    def __init__(self, a_second: float, burst: float) -> None:
        self._a_second, self._burst = a_second, burst
        self._left: dict[PeerId, tuple[float, float]] = {}
        """What each had after its last question, and when that was."""

    def take(self, peer: PeerId, now: float) -> bool:
        """Whether it may ask at ``now``, in seconds: then it has one question less. Who asks too soon has none left."""
        left, since = self._left.get(peer, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._a_second)
        self._left[peer] = (max(0.0, left - 1.0), now)
        return left >= 1.0
