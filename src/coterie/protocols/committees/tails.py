"""How many seats corrupt peers may get: exact chances, in integers, so that everybody finds the same numbers.

Equal stakes, exact: of n peers, floor(c n) are corrupt. Each has floor(m / n) seats for certain, and the other m mod n
seats go to a uniform choice of peers: their number among the corrupt is hypergeometric.

Other stakes, an upper bound that holds for every set of corrupt peers with a share up to c (see ``ring``): the seats
of a set are distributed as a sum of independent yes/no variables with mean M <= m c, and of these no more than T are
not zero, T the sum of ceil(m s / W) over the set. So P(X > t) <= P(Bin(T, m c / T) > t) for t >= m c. T is the greatest
that any set may have, bounded by the fractional knapsack, and at most m. It matters in small groups: 2 of 10 peers with
much the same stakes have 2 or 3 seats of 10, while Bin(10, .2) would allow for 9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, comb

_GRAIN = 2**24
"""The chance of one trial is rounded up to a multiple of 1/2^24: numbers stay short, and the bound a bound."""


@dataclass(frozen=True)
class Tail:
    """The number of corrupt seats, exactly or as a bound on its tail: ``certain`` + i with chance weights[i] / sum."""

    certain: int
    weights: tuple[int, ...]
    least: int = 0
    """A bound says nothing of counts below this one."""

    def above(self, count: int) -> Fraction:
        """P(more than ``count`` corrupt seats), or an upper bound on it."""
        if count < self.least:
            return Fraction(1)
        return Fraction(sum(self.weights[max(0, count + 1 - self.certain) :]), sum(self.weights))

    def quantile(self, risk: Fraction) -> int:
        """The smallest count that is exceeded with a chance of at most ``risk``."""
        allowed, above, count = risk * sum(self.weights), 0, self.certain
        for i in range(len(self.weights) - 1, -1, -1):
            above += self.weights[i]
            if above > allowed:
                count += i
                break
        return max(count, self.least)


def corrupt_seats(stakes: Sequence[int], seats: int, budget: Fraction) -> Tail:
    """The corrupt seats of ``seats`` where corrupt peers have stakes of ``budget`` together, at most.

    ``stakes`` are those that the draw uses, after ``capped``, none of them 0.
    """
    peers, total = len(stakes), sum(stakes)
    if min(stakes) == max(stakes):
        named = min(peers, int(budget / stakes[0]))
        whole, drawn = divmod(seats, peers)
        return _hypergeometric(whole * named, peers, named, drawn)
    trials = min(seats, _most_trials(stakes, seats, budget))
    if trials == 0:
        return Tail(0, (1,))
    mean = min(seats * budget / total, Fraction(trials))
    return _binomial(trials, mean / trials, least=ceil(mean))


def _hypergeometric(certain: int, peers: int, corrupt: int, drawn: int) -> Tail:
    honest = peers - corrupt
    least, most = max(0, drawn - honest), min(corrupt, drawn)
    weights = [comb(corrupt, least) * comb(honest, drawn - least)]
    for i in range(least, most):
        weights.append(weights[-1] * (corrupt - i) * (drawn - i) // ((i + 1) * (honest - drawn + i + 1)))
    return Tail(certain + least, tuple(weights))


def _binomial(trials: int, chance: Fraction, *, least: int) -> Tail:
    yes = ceil(chance * _GRAIN)
    weights, power = [comb(trials, i) for i in range(trials + 1)], 1
    for i in range(trials + 1):
        weights[i] *= power
        power *= yes
    power = 1
    for i in range(trials, -1, -1):
        weights[i] *= power
        power *= _GRAIN - yes
    return Tail(0, tuple(weights), least)


def _most_trials(stakes: Sequence[int], seats: int, budget: Fraction) -> int:
    """The most that the sum of ceil(seats s / W) may be for peers whose stakes sum to at most ``budget``, or more."""
    total, count, left = sum(stakes), 0, budget
    having = Counter(stakes)
    worth = {stake: -(-seats * stake // total) for stake in having if stake <= budget}
    for stake in sorted(worth, key=lambda stake: (Fraction(stake, worth[stake]), stake)):  # the cheapest first
        taken = min(having[stake], int(left / stake))
        count, left = count + taken * worth[stake], left - taken * stake
        if taken < having[stake]:
            return count + int(worth[stake] * left / stake)
    return count
