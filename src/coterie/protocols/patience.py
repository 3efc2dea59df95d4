"""How long to wait for a peer: no constant for a user to guess."""

from __future__ import annotations

from collections.abc import Iterable


class Patience:
    """How long to wait for a peer, from what it has shown.

    median + 10 MAD of its last 32 answers, at least twice the median, and 1 s more. For one that has not answered yet:
    the same from what all have shown, or 60 s as long as nobody has answered. Each time-out in a row halves the wait,
    down to an eighth, so that a silent peer cannot hold the others up. An answer that comes too late still counts: a
    peer that has become slow is waited for again. But no wait is longer than ``SLOWEST`` times the lower median of what
    all have shown, or than ``FIRST`` seconds where that is more: one that always answers in the last moment would else
    be waited for ever longer, twice as long every few answers.
    """

    FIRST = 60.0
    HALVINGS = 3
    REMEMBERED = 32
    SLOWEST = 32.0

    def __init__(self, others: Patience | None = None) -> None:
        self._others = others
        self._seen: list[float] = []
        self._silent = 0
        self._reckoned: float | None = None
        """The wait that follows from what was seen; None until it is asked for again."""

    @property
    def shown(self) -> tuple[list[float], int]:
        """What is known: its last answers in seconds, and the time-outs since the last one."""
        return list(self._seen), self._silent

    @classmethod
    def of(cls, shown: tuple[list[float], int], others: Patience | None = None) -> Patience:
        """The inverse of ``shown``."""
        patience = cls(others)
        patience._seen.extend(shown[0])
        patience._silent = shown[1]
        return patience

    def seconds(self) -> float:
        """The wait before an ask to this peer is given up."""
        return self._wait() * 0.5 ** min(self._silent, self.HALVINGS)

    def _wait(self) -> float:
        if not self._seen:
            return self.FIRST if self._others is None else self._others._wait()
        if self._reckoned is None:
            median = _median(self._seen)
            deviation = _median([abs(seconds - median) for seconds in self._seen])
            self._reckoned = max(2 * median, median + 10 * deviation) + 1.0
        return self._reckoned if self._others is None else min(self._reckoned, self._others._most())

    def _most(self) -> float:
        """The longest wait for anybody, by what all have shown; the liars among them a minority."""
        lower = sorted(self._seen)[(len(self._seen) - 1) // 2] if self._seen else 0.0
        return max(self.FIRST, self.SLOWEST * lower)

    def answered(self, seconds: float) -> None:
        """It answered after ``seconds``, in time or late."""
        self._seen.append(seconds)
        if len(self._seen) > self.REMEMBERED:
            del self._seen[0]
        self._silent, self._reckoned = 0, None
        if self._others is not None:
            self._others.answered(seconds)

    def timed_out(self) -> None:
        """It was given up."""
        self._silent += 1


def _median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two middle ones; several times as fast as ``statistics.median``."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
