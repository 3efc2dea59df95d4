"""What the tests of committees compare with: exact distributions, another draw, the systematic ring, sums of trials."""

import hashlib
from fractions import Fraction
from math import comb

import numpy as np

from coterie.protocols.committees.ring import settle


class Scripted:
    """Gives the numbers of a script, and tells which bound each was below; 0 where the script has ended."""

    def __init__(self, script):
        self.script, self.bounds = script, []

    def below(self, bound):
        at = len(self.bounds)
        self.bounds.append(bound)
        return self.script[at] if at < len(self.script) else 0


def outcomes(amounts, seats):
    """Each way that the seats may fall in this order, with its exact chance: all numbers are tried."""
    chances, open_scripts = {}, [[]]
    while open_scripts:
        script = open_scripts.pop()
        numbers = Scripted(script)
        held = tuple(settle(amounts, seats, numbers))
        if len(numbers.bounds) > len(script):
            open_scripts += [[*script, number] for number in range(numbers.bounds[len(script)])]
            continue
        chance = Fraction(1)
        for bound in numbers.bounds:
            chance /= bound
        chances[held] = chances.get(held, 0) + chance
    return chances


def binomial_above(trials, chance, count):
    """P(Bin > count), exactly."""
    chance = Fraction(chance)
    return sum(comb(trials, i) * chance**i * (1 - chance) ** (trials - i) for i in range(max(0, count + 1), trials + 1))


def drawn_again(beacon, role, stakes, seats):
    """``draw`` as its documentation has it, in fractions and with a generator: written apart from the package."""

    def octets():
        block = 0
        while True:
            head = b"coterie committee" + len(role.encode()).to_bytes(2, "big") + role.encode()
            yield from hashlib.sha512(head + hashlib.sha512(beacon).digest() + block.to_bytes(8, "big")).digest()
            block += 1

    source = octets()

    def below(bound):
        bound = int(bound)
        wanted = len(f"{bound - 1:b}") if bound > 1 else 0
        while True:
            text = "".join(f"{next(source):08b}" for _ in range(-(-wanted // 8)))
            number = int(text[:wanted] or "0", 2)
            if number < bound:
                return number

    order = [peer for peer in sorted(stakes) if stakes[peer]]
    for last in reversed(range(1, len(order))):
        other = below(last + 1)
        order[last], order[other] = order[other], order[last]
    total = sum(stakes.values())
    held = {peer: seats * stakes[peer] // total for peer in order}
    going, a = None, Fraction(0)
    for peer in order:
        b = Fraction(seats * stakes[peer], total) % 1
        if not b:
            continue
        if not a:
            going, a = peer, b
            continue
        if a + b <= 1:
            goes_on = below((a + b) * total) < a * total
            going, a = (going if goes_on else peer), a + b
            if a == 1:
                held[going] += 1
                a = Fraction(0)
        else:
            goes_on = below((2 - a - b) * total) < (1 - a) * total
            held[peer if goes_on else going] += 1
            going, a = (going if goes_on else peer), a + b - 1
    return tuple(peer for peer in order for _ in range(held[peer]))


def systematic(rng, stakes, corrupt, seats):
    """How many seats the corrupt get where seat i is at (i + o) W / m of the shuffled stakes."""
    order = rng.permutation(len(stakes))
    ends = np.cumsum(np.asarray(stakes)[order])
    points = (np.arange(seats) + rng.random()) * ends[-1] / seats
    return int(np.asarray(corrupt)[order[np.searchsorted(ends, points, side="right")]].sum())
